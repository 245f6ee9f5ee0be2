"""The plan of a run, and its summary, as text and as JSON."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsipipe.events import ClassCount
    from wsipipe.pipeline.run_plan import Refused, RunPlan
    from wsipipe.pipeline.slide_plan import SlidePlan
    from wsipipe.pipeline.summary import Account, RunSummary, SlideOutcome
    from wsipipe.report.run_line import Verbosity


def plan_as_json(plan: RunPlan) -> dict[str, Any]:
    """The document of ``--dry-run --json``."""
    return {
        "model": plan.setup.model.path,
        "devices": list(plan.setup.devices),
        "engine": plan.setup.engine,
        "tta": plan.setup.tta,
        "probabilities": plan.setup.probabilities,
        "uncertainty": plan.setup.uncertainty,
        "threads": plan.threads,
        "max_memory_bytes": plan.setup.limit_bytes,
        "unmatched_rows": list(plan.unmatched),
        "slides": [_slide_plan_as_json(plan, slide) for slide in plan.slides],
    }


def _slide_plan_as_json(plan: RunPlan, slide: SlidePlan | Refused) -> dict[str, Any]:
    from wsipipe.pipeline.run_plan import Refused

    if isinstance(slide, Refused):
        return {"slide": slide.path, "action": "refuse", "reason": slide.error}
    height, width = slide.grid.shape
    return {
        "slide": slide.slide.path,
        "action": slide.action,
        "reason": slide.reason,
        "store": slide.store.path,
        "level": slide.level.index,
        "shrink": slide.level.shrink,
        "mpp": slide.level.mpp,
        "mpp_source": slide.slide.mpp_source,
        "height": height,
        "width": width,
        "tissue": plan.setup.tissue_identity,
        "region": slide.store.fingerprint.region or None,
        "region_share": None if slide.region is None else slide.region.share,
        "block": slide.grid.block,
        "blocks": slide.grid.count,
        "blocks_to_do": len(slide.blocks),
        "objects": None if plan.setup.objects is None else asdict(plan.setup.objects),
        "output_bytes_at_most": slide.store.raw_bytes,
        "projected_memory_bytes": plan.memory_bytes(slide),
        "warnings": list(slide.slide.warnings),
    }


def plan_as_text(plan: RunPlan) -> str:
    """The text of ``--dry-run``."""
    from wsipipe.arrays import size_text
    from wsipipe.report.words import shown_lines

    setup = plan.setup
    where = f"{', '.join(setup.devices)} by {setup.engine}"
    averaged = f", averaged over {setup.pool.passes} passes (--tta {setup.tta})" if setup.pool.passes > 1 else ""
    written = {"probabilities": setup.probabilities, "uncertainty": setup.uncertainty}
    also = "".join(f", with {name}" for name, wanted in written.items() if wanted)
    lines = [f"{setup.model.spec.name} on {where}, {plan.threads} blocks in flight{averaged}{also}"]
    for row in [_slide_plan_as_json(plan, slide) for slide in plan.slides]:
        lines.append(f"{row['action']:8} {row['slide']}: {row['reason']}")
        if "store" in row:
            mpp = f"{row['mpp']:.4g} um/px ({row['mpp_source']})" if row["mpp"] else "resolution unknown"
            to_do = f"{row['blocks_to_do']} of {row['blocks']} blocks of {row['block']} px"
            shrunk = "" if row["shrink"] == 1 else f" {'shrunk' if row['shrink'] > 1 else 'enlarged'} to"
            region = f"; region on {row['region_share']:.1%} of the slide" if row["region"] else ""
            lines.append(f"         level {row['level']}{shrunk or ','} {mpp}; {to_do}{region}")
            lines.append(
                f"         -> {row['store']}, {size_text((row['height'], row['width']))}, "
                f"at most {row['output_bytes_at_most'] / 1e6:,.1f} MB before compression; "
                f"memory at most {row['projected_memory_bytes'] / 1e6:,.0f} MB"
            )
        lines += [f"         warning: {warning}" for warning in row.get("warnings", [])]
    lines += [f"warning: {plan.table_warning}"] * bool(plan.unmatched)
    return shown_lines(lines)


def summary_as_json(summary: RunSummary) -> dict[str, Any]:
    """The document of ``--json``."""
    from wsipipe.pipeline.summary import RUN_STATUSES

    counts = {status: summary.count(status) for status in RUN_STATUSES}
    document = {**asdict(summary), **counts, "exit_code": summary.exit_code}
    for slide, described in zip(summary.slides, document["slides"], strict=True):
        described["account"] = _account_as_json(summary.account(slide))
    return document | {"account": _account_as_json(summary.account())}


def _account_as_json(account: Account | None) -> dict[str, Any] | None:
    return None if account is None else asdict(account)


def summary_as_text(summary: RunSummary, verbosity: Verbosity, *, told: bool = True) -> str:
    """One line per slide and class of its objects, one for the whole run, and what limited it; quiet: nothing.

    Why slides failed was ``told`` on stderr when they did, and is not said again.
    """
    from wsipipe.pipeline.summary import NOT_ATTEMPTED
    from wsipipe.report.record import DONE, FAILED, NO_TISSUE, OPEN, SKIPPED, TAKEN
    from wsipipe.report.run_line import Verbosity
    from wsipipe.report.words import shown_lines

    if verbosity == Verbosity.QUIET:
        return ""
    lines = [line for slide in summary.slides for line in _outcome_as_text(slide, told=told)]
    pixels = sum(slide.pixels for slide in summary.slides)
    counts = ", ".join(f"{summary.count(status)} {status}" for status in (DONE, SKIPPED, FAILED))
    rare = [(status, summary.count(status)) for status in (NO_TISSUE, TAKEN, OPEN, NOT_ATTEMPTED)]
    counts += "".join(f", {count} {status}" for status, count in rare if count)
    lines.append(
        f"{counts}; {pixels / 1e6:,.1f} MP in {summary.seconds:,.1f} s; "
        f"peak memory {summary.peak_bytes / 1e6:,.0f} MB (projected {summary.projected_bytes / 1e6:,.0f} MB)"
    )
    if (account := summary.account()) is not None:
        lines.append(f"network busy {account.busy:.0%} of the time; bottleneck: {account.bottleneck}")
        if verbosity == Verbosity.VERBOSE:
            lines.append(_account_as_text(account))
    finished = [slide.store for slide in summary.slides if slide.status in (DONE, SKIPPED, NO_TISSUE) and slide.store]
    if finished and "://" not in finished[0]:
        where = finished[0] if len(finished) == 1 else str(Path(finished[0]).parent)
        lines.append(f"to look at the result: wsipipe view {shlex.quote(where)}")
    return shown_lines(lines)


def _account_as_text(account: Account) -> str:
    """The rest of the account: where the time of the threads went, and how fast the network could be."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in account.shares.items())
    of_bare = "" if account.of_bare is None else f"{account.of_bare:.0%} of the bare network's speed; "
    return f"{of_bare}threads: {shares}"


def end_of(summary: RunSummary) -> str:
    """The last line of a run that the machine stopped; the reason is not said again if it failed a slide before."""
    if any(slide.message == summary.stopped for slide in summary.slides):
        return "the run was stopped by the last error above; once that is mended, the same command resumes"
    return summary.stopped


def _outcome_as_text(slide: SlideOutcome, *, told: bool) -> list[str]:
    """The line of a slide, and one for each class of its objects."""
    from wsipipe.report.record import FAILED, NO_TISSUE

    if slide.store is None or slide.message:
        where = f" -> {slide.shown_store}" if slide.shown_store else ""
        said = told and slide.status in (FAILED, NO_TISSUE)
        reason = f": {slide.message}" if slide.message and not said else ""
        return [f"{slide.status:8} {Path(slide.slide).name}{where}{reason}"]
    speed = slide.pixels / 1e6 / slide.seconds if slide.seconds else 0.0
    size = f"{slide.pixels / 1e6:,.1f} MP"
    outside = f"{slide.outside / slide.pixels:.0%} outside the region" if slide.outside else ""
    glass = f"{slide.skipped / slide.pixels:.0%} skipped, without tissue" if slide.skipped else ""
    if outside or glass:
        size += f" ({', '.join(filter(None, (outside, glass)))})"
    made = f"{size}, {speed:.2f} MP/s" if slide.pixels or not slide.objects else "objects measured"
    lines = [f"{slide.status:8} {Path(slide.slide).name} -> {slide.store}  {made}"]
    return [*lines, *map(class_count_as_text, slide.objects)]


def class_count_as_text(one: ClassCount) -> str:
    """The line of the objects of one class."""
    said = [f"    {one.name}: {one.objects:,}"]
    if one.per_mm2 is not None:
        said.append(f"{one.per_mm2:,.1f} per mm2")
    if one.area_share is not None:
        said.append(f"{one.area_share:.2%} of the area")
    if one.median_um2 is not None:
        said.append(f"median {one.median_um2:,.1f} um2")
    elif one.median_pixels is not None:
        said.append(f"median {one.median_pixels:,.1f} px")
    return ", ".join(said)
