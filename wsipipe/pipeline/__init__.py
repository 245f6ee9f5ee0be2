"""Slides in, stores out: the plan, the task graph, the scheduler, one slide, and a run over many (dask lives here)."""
