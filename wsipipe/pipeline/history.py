"""What a store records of the run that finished it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from wsipipe.pipeline.run_plan import RunPlan
from wsipipe.pipeline.summary import SlideOutcome, account


def history_of(slide: SlideOutcome, run: RunPlan, labels: Counter[int]) -> dict[str, Any]:
    """What the store records of the run that finished it: when, by what, where the time went, and what was found."""
    spent = account(
        [slide], seconds=slide.seconds, threads=run.all_threads, devices=run.all_devices, bare=run.measured_bare
    )
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "devices": list(run.setup.devices),
        "processes": run.setup.site.processes,
        "engine": run.setup.engine,
        "threads": run.threads,
        "blocks": slide.blocks_computed,
        "pixels": slide.pixels,
        "skipped": slide.skipped,
        "tissue": None if slide.tissue_share is None else {"share": slide.tissue_share, "how": slide.tissue_by},
        **({} if slide.region_share is None else {"region": {"share": slide.region_share}, "outside": slide.outside}),
        "seconds": slide.seconds,
        "spent": asdict(slide.spent),
        "account": None if spent is None else asdict(spent),
        "labels": {str(label): labels[label] for label in sorted(labels)},
        "compared": {"labels": slide.compared[0], "differing": slide.compared[1]},
    }


def approximate_text(tiles: str, compared: tuple[int, int]) -> str:
    """What a user should know of labels that depend on the ``tiles``, some of which were ``compared``."""
    labels, differing = compared
    share = (
        f"of {labels:,} labels, {differing / labels:.2%} differ in other tiles" if labels else "no tiles were compared"
    )
    return f"labels are approximate, by {tiles}: {share}"
