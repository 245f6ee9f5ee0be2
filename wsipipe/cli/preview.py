"""``wsipipe preview``: the part of a slide that a run would segment, or what a run found, as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from wsipipe.cli.command import PATH
from wsipipe.errors import UsageError


@click.command()
@click.argument("slide", type=PATH, metavar="SLIDE|STORE")
@click.option(
    "-o",
    "--out",
    type=PATH,
    metavar="PICTURE.png",
    help="The picture.  [default: <slide's name>.png; of a STORE <its name>-result.png]",
)
@click.option("-m", "--model", "model", type=PATH, metavar="MODEL", help="As for run; its halo widens the tissue mask.")
@click.option("--mpp", type=float, metavar="F", help="Micrometres per pixel of level 0; overrides the file.")
@click.option(
    "--tissue",
    default="auto",
    show_default=True,
    type=PATH,
    metavar="auto|FILE|off",
    help="auto: detected; FILE: a mask; off, with --roi: all of the region.",
)
@click.option(
    "--roi",
    type=PATH,
    metavar="X,Y,W,H|FILE",
    help="As for run: the region that would be segmented; of a STORE, what to draw, pixel by pixel.",
)
def preview(slide: str, out: str | None, model: str | None, mpp: float | None, tissue: str, roi: str | None) -> None:
    """Draw SLIDE small, with the outline of what `run` would segment, its share, which is printed, and a scale bar.

    Of a STORE, which `run` made: draw its slide, with the outlines of what was found.
    """
    from wsipipe.files import locate
    from wsipipe.store.finished import is_store
    from wsipipe.tissue.mask_file import TISSUE_AUTO

    if not is_store(locate(slide)):
        _draw_searched(slide, out, model, mpp, tissue, roi)
    elif model is None and mpp is None and tissue == TISSUE_AUTO:
        _draw_result(slide, out, roi)
    else:
        raise UsageError(f"{slide} is a result, and -m, --mpp and --tissue are those of its run; remove them")


def _target(out: str | None, name: str, slide: str, store: str | None = None) -> Path:
    """The picture to write: ``out``, by default ``name``.png; not the ``slide``, nor in it or in the ``store``."""
    path = Path(out or f"{name}.png")
    place, shown = path.resolve(), [Path(one).resolve() for one in (slide, store) if one is not None]
    if any(one in shown for one in (place, *place.parents)):
        where = "is the slide itself" if place == shown[0] else "lies in what is shown"
        raise UsageError(f"-o {path} {where}, which would be overwritten; name another picture")
    return path


def _draw_result(store: str, out: str | None, roi: str | None) -> None:
    """Draw what a run found."""
    from wsipipe.files import absolute, write_whole
    from wsipipe.pictures.result import result_png
    from wsipipe.store.finished import open_complete
    from wsipipe.store.spec import STORE

    found = open_complete(store)
    path = _target(out, f"{absolute(store).name.removesuffix(STORE)}-result", found.slide_path, found.path)
    write_whole(path, result_png(found, roi), kind="picture ")
    click.echo(f"{Path(found.slide_path).name}, as segmented: {path}")


def _draw_searched(
    slide: str, out: str | None, model: str | None, mpp: float | None, tissue: str, roi: str | None
) -> None:
    """Draw what a run would segment."""
    from wsipipe.files import write_whole
    from wsipipe.model.built_in import DEFAULT_MODEL
    from wsipipe.model.model_file import read_model_info
    from wsipipe.pictures.preview import tissue_png
    from wsipipe.rasters.region import parse_region, region_of
    from wsipipe.slides.open import open_slide
    from wsipipe.slides.slide import choose_level
    from wsipipe.tissue.detect import find_tissue
    from wsipipe.tissue.mask_file import TISSUE_OFF, given_mask, is_file
    from wsipipe.tissue.searched import tissue_share_in

    if tissue == TISSUE_OFF and roi is None:
        raise UsageError(
            "--tissue off segments the whole slide, so there is nothing to preview; allowed: auto, or a file"
        )
    info, opened = read_model_info(model or DEFAULT_MODEL), open_slide(slide, mpp=mpp)
    level = choose_level(opened, info.spec.mpp)
    region = None if roi is None else region_of(parse_region(roi), opened, level)
    mask, how = None, ""
    if is_file(tissue):
        mask, how = given_mask(tissue, level), "given"
    elif tissue != TISSUE_OFF:
        mask, how = find_tissue(opened, level, halo=info.receptive.halo)
    path = _target(out, opened.name, str(opened.path))
    write_whole(path, tissue_png(opened, level, mask, region), kind="picture ")
    shares = [f"the region covers {region.share:.1%} of level {level.index}"] if region is not None else []
    if mask is not None:
        of = f"level {level.index}" if region is None else "the region"
        shares.append(f"tissue covers {tissue_share_in(mask, region):.1%} of {of} ({how})")
    click.echo(f"{opened.file}: {', '.join(shares)}: {path}")
