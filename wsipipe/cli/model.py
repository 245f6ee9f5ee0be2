"""``wsipipe model``: show models, import those of other programs, quantise them, and make untrained ones."""

from __future__ import annotations

from pathlib import Path

import click

from wsipipe.cli.command import PATH, Command, in_section
from wsipipe.cli.json_text import echo_json
from wsipipe.cli.model_text import agreement_text, described, facts, margins_text
from wsipipe.cli.normalisation import normalisation
from wsipipe.errors import OutputError, UsageError
from wsipipe.files import takes_files
from wsipipe.model.network import HEADS


@click.group()
def model() -> None:
    """Show, import, quantize or make a model."""


@model.command()
@click.argument("model", type=PATH)
def show(model: str) -> None:
    """Print the metadata of MODEL as JSON."""
    from wsipipe.model.model_file import load_model

    echo_json(facts(load_model(model).info))


_files, _normalised, _ends = in_section("Input and output"), in_section("Pixels"), in_section("Network")
_described, _inexact = in_section("Description"), in_section("Exactness")


@model.command(
    name="import",
    cls=Command,
    examples=(
        (
            "wsipipe model import net.onnx -o my.onnx --mpp 0.5 --classes background,nucleus --imagenet",
            "an ONNX network of two classes, trained with ImageNet's normalisation",
        ),
    ),
)
@click.argument("network", type=PATH)
@_files("-o", "--output-file", "target", required=True, type=PATH, metavar="FILE", help="The model to write.")
@_files("--trust", is_flag=True, help="Load a TorchScript file, which executes what is in it.")
@_normalised("--mpp", type=float, required=True, metavar="F", help="Micrometres per pixel of its input; 0: any.")
@_normalised("--imagenet", is_flag=True, help="Its input is normalised by ImageNet's means and deviations.")
@_normalised("--mean", metavar="F,F,F", help="Means of its input, as shares of full scale.")
@_normalised("--std", metavar="F,F,F", help="Standard deviations of its input, as shares of full scale.")
@_normalised("--scale", type=float, metavar="F", help="8-bit pixels are divided by it: 255, or 1 for none.")
@_ends("--classes", required=True, metavar="A,B", help="The channels of its output; background is label 0.")
@_ends("--head", type=click.Choice(HEADS), help="What its output is.  [default: by its channels]")
@_ends("--input", "input_name", metavar="NAME", help="Its input, if there are several.")
@_ends("--output", "output_name", metavar="NAME", help="Its output, if there are several.")
@_ends("--channels-last", is_flag=True, help="It takes and gives (n, y, x, channel).")
@_ends("--channels", default=3, show_default=True, metavar="N", help="Channels of its images (TorchScript).")
@_ends("--step", default=32, show_default=True, metavar="PX", help="Its sides are multiples of it (TorchScript).")
@_inexact("--approximate", is_flag=True, help="Accept a network that no tiles can compute exactly.")
@_inexact("--margin", type=int, metavar="PX", help="With --approximate: pixels around each core.")
@_inexact("--on", "slide", type=PATH, metavar="SLIDE", help="Also say what smaller margins change, in its tissue.")
@_described("--name", metavar="NAME", help="What people call the model.  [default: the file's name]")
@_described("--licence", default="not stated", metavar="NAME", help="Licence of its weights.")
@_described("--min-area", type=float, default=0.0, metavar="UM2", help="Smaller objects are left out.")
def import_(
    network: str,
    target: str,
    mpp: float,
    classes: str,
    imagenet: bool,
    mean: str | None,
    std: str | None,
    scale: float | None,
    head: str | None,
    input_name: str | None,
    output_name: str | None,
    channels_last: bool,
    channels: int,
    step: int,
    name: str | None,
    licence: str,
    min_area: float,
    approximate: bool,
    margin: int | None,
    slide: str | None,
    trust: bool,
) -> None:
    """Make a model of NETWORK, an ONNX, torch.export or TorchScript file.

    How far it looks is measured, so that its labels have no seams.
    """
    if approximate != (margin is not None):
        raise UsageError("--approximate and --margin PX go together")
    _check_target(target)

    from wsipipe.importing.import_model import NetworkRequest, import_file, named_classes
    from wsipipe.model.spec import ModelSpec
    from wsipipe.slides.open import open_slide
    from wsipipe.slides.slide import choose_level

    means, deviations = normalisation(imagenet=imagenet, mean=mean, std=std, scale=scale)
    spec = ModelSpec(
        named_classes([text.strip() for text in classes.split(",")]),
        mpp=mpp or None,
        mean=means,
        std=deviations,
        name=name or Path(target).stem,
        licence=licence,
        min_area_um2=min_area,
    )
    request = NetworkRequest(head, input_name, output_name, channels_last, channels, step, margin)
    if slide is not None:
        choose_level(open_slide(slide), spec.mpp)
    click.echo(described(import_file(Path(network), Path(target), spec, request, trust=trust, say=_say)))
    if slide is not None:
        from wsipipe.importing.margins import margin_shares

        _say("comparing margins")
        click.echo(margins_text(margin_shares(target, slide)))


@model.command()
@click.argument("model", type=PATH)
@click.option(
    "-o", "--output-file", "target", required=True, type=PATH, metavar="FILE", help="The model to write: .onnx."
)
@click.option(
    "--on", "slides", required=True, multiple=True, type=PATH, metavar="SLIDE", help="Calibrate in its tissue; repeat."
)
@click.option("--mpp", type=float, metavar="F", help="Micrometres per pixel of level 0; overrides the files.")
@click.option("--tiles", default=32, show_default=True, metavar="N", help="Tiles to calibrate on.")
@click.option(
    "--least-dice", default=0.98, show_default=True, metavar="F", help="Refuse below this, int8 against float32."
)
def quantize(
    model: str, target: str, slides: tuple[str, ...], mpp: float | None, tiles: int, least_dice: float
) -> None:
    """Make an int8 model of MODEL, for CPUs: several times as fast, and some labels differ.

    It is calibrated on tiles of tissue; how many labels differ is measured on others of the same slides.
    """
    _check_target(target)

    from wsipipe.quantization.quantize import QuantizeRequest, quantize_model
    from wsipipe.slides.discover import expand

    request = QuantizeRequest(tiles, mpp, least_dice)
    info, agreed = quantize_model(model, Path(target), expand(slides), request, _say)
    click.echo(described(info))
    click.echo(agreement_text(agreed))


@model.command()
@click.argument("model", type=PATH)
@click.option("--in-channels", default=3, show_default=True, metavar="N", help="Channels of the slides.")
@click.option("--base-channels", default=64, show_default=True, metavar="N", help="Channels of the first level.")
@click.option("--depth", default=4, show_default=True, metavar="N", help="Number of 2x2 poolings.")
@click.option("--classes", default=2, show_default=True, metavar="N", help="Classes of the softmax; 1: one sigmoid.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Seed of the random weights.")
@click.option("--mpp", type=float, metavar="F", help="Micrometres per pixel of its input.  [default: any]")
def init(
    model: str, in_channels: int, base_channels: int, depth: int, classes: int, seed: int, mpp: float | None
) -> None:
    """Write an untrained model to MODEL, for tests and timings."""
    for option, value, least in (
        ("--in-channels", in_channels, 1),
        ("--base-channels", base_channels, 1),
        ("--depth", depth, 0),
        ("--classes", classes, 1),
    ):
        if value < least:
            raise UsageError(f"{option} must be {least} or more (got {value})")
    _check_new(model)

    from wsipipe.model.model_file import save_untrained

    sizes = {"in_channels": in_channels, "classes": classes, "base_channels": base_channels, "depth": depth}
    count = save_untrained(model, sizes, seed=seed, mpp=mpp)
    click.echo(f"{model}: {count:,} untrained weights")


def _check_target(target: str) -> None:
    """Raise an error unless ``target`` can be written, and is not there yet, before what takes long."""
    _check_new(target)
    if not takes_files(Path(target).parent):
        raise OutputError(f"-o {target}: {Path(target).parent} is not a folder that can be written to; give another")


def _check_new(target: str) -> None:
    if Path(target).exists():
        raise UsageError(f"{target} already exists; give another name, or remove it")


def _say(text: str) -> None:
    click.echo(f"{text} ...", err=True)
