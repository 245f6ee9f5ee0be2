"""The style sheet of the page: light and dark, for wide screens, phones and paper."""

COLORS = """
:root {
  color-scheme: light dark;
  --ground: #f4f5f7; --card: #fff; --ink: #1a1e23; --soft: #58626d; --line: #dde1e6; --glass: #eceef1;
  --good: #17784a; --good-tint: #e4f3ea; --bad: #b3261e; --bad-tint: #fceceb; --warn: #8a5a00; --warn-tint: #fdf1d8;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #111417; --card: #1b2025; --ink: #e7eaed; --soft: #9ba5af; --line: #30373e; --glass: #262c32;
    --good: #5ccb93; --good-tint: #16301f; --bad: #ff8a80; --bad-tint: #3a1c1a; --warn: #e8b84a; --warn-tint: #352a12;
  }
}
"""
"""The colours of all pages, light and dark."""
STYLE = (
    COLORS
    + """* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.25rem; max-width: 78rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1, h2, h3, p, dl, dd, ul, figure, table { margin: 0; padding: 0; }
a { color: inherit; text-decoration-thickness: 1px; text-underline-offset: .15em; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .soft { color: var(--soft); }
.text { white-space: pre-wrap; unicode-bidi: isolate; }
.name { unicode-bidi: isolate; }

header, .tile, .card, .problem, .list, .history {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
}
header { padding: 1.1rem 1.4rem 1.3rem; border-left: .6rem solid; }
header.good { border-left-color: var(--good); } header.bad { border-left-color: var(--bad); }
header.warn { border-left-color: var(--warn); }
header p, h1 { color: var(--ink); }
header .soft { color: var(--soft); }
h1 { font-size: clamp(1.7rem, 5.5vw, 2.9rem); line-height: 1.15; letter-spacing: -.02em; margin: .25rem 0; }
h1 a { text-decoration: none; } h1 a:hover { text-decoration: underline; }
.stopped { margin-top: .7rem; padding: .6rem .9rem; border-radius: .4rem; background: var(--bad-tint); }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: .75rem 0; }
.tile { padding: .7rem 1rem .8rem; }
.tile dt { color: var(--soft); font-size: .875rem; }
.tile dd { font-size: 1.45rem; font-weight: 600; line-height: 1.25; }
.tile dd + dd { font-size: .875rem; font-weight: 400; color: var(--soft); }

h2 { font-size: 1.15rem; margin: 1.8rem 0 .6rem; scroll-margin-top: 1rem; }
h2 small { font-size: .9375rem; font-weight: 400; color: var(--soft); }
h3 { font-size: 1rem; line-height: 1.3; }
.badge {
  display: inline-block; padding: .05rem .5rem; border-radius: .3rem; font-size: .8125rem; font-weight: 600;
  vertical-align: .08em; white-space: nowrap;
}
.badge.good { background: var(--good-tint); } .badge.bad { background: var(--bad-tint); }
.badge.warn { background: var(--warn-tint); } .badge.soft { background: var(--glass); }

.problem { padding: .9rem 1.1rem; margin-bottom: .75rem; border-left: .35rem solid var(--soft); }
.problem.bad { border-left-color: var(--bad); color: inherit; }
.problem.warn { border-left-color: var(--warn); color: inherit; }
.problem { display: flow-root; } .problem figure { float: right; margin: 0 0 .5rem 1rem; }
.problem img { display: block; max-width: 100%; max-height: 9rem; width: auto; height: auto; border-radius: .3rem; }
.problem .text { margin-top: .45rem; }
.facts { color: var(--soft); font-size: .875rem; margin-top: .35rem; }

.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: .75rem; }
.card { overflow: hidden; }
.controls {
  display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; margin: .75rem 0; font-size: .9375rem;
}
.controls fieldset { display: flex; flex-wrap: wrap; align-items: baseline; gap: .35rem; }
.controls fieldset { margin: 0; padding: 0; border: 0; }
.controls legend { float: left; color: var(--soft); margin-right: .35rem; padding: 0; }
.controls input { position: absolute; opacity: 0; }
.controls label {
  padding: .15rem .7rem; border: 1px solid var(--line); border-radius: 1rem; background: var(--card); cursor: pointer;
}
.controls :checked + label { background: var(--ink); border-color: var(--ink); color: var(--card); }
.controls :focus-visible + label { outline: 2px solid var(--good); outline-offset: 2px; }
@supports not selector(:has(a)) { .controls { display: none; } }
.cards { reading-flow: grid-order; }
.zoom { height: 100%; }
.zoom > summary { display: flex; justify-content: center; align-items: center; height: 100%; cursor: zoom-in; }
.zoom > summary::-webkit-details-marker { display: none; }
.zoom[open] > summary { position: fixed; inset: 0; z-index: 1; height: auto; cursor: zoom-out; background: #000d; }
.zoom[open] > summary img { visibility: hidden; }
.zoom .large { position: fixed; inset: 0; z-index: 2; display: flex; padding: 1rem; pointer-events: none; }
.zoom .large img { margin: auto; max-width: 100%; max-height: 100%; object-fit: contain; }
.card figure { background: var(--glass); display: flex; justify-content: center; align-items: center; height: 15rem; }
.card img { max-width: 100%; max-height: 100%; height: auto; width: auto; display: block; }
.card > div { padding: .75rem .95rem .9rem; }
.areas { border-collapse: collapse; width: 100%; margin-top: .5rem; font-variant-numeric: tabular-nums; }
.areas th, .areas td { padding: .12rem 0; font-weight: 400; text-align: left; }
.areas td { text-align: right; white-space: nowrap; font-weight: 600; padding-left: .7rem; }
.areas thead th { color: var(--soft); font-size: .8125rem; white-space: nowrap; }
.areas th + th { text-align: right; padding-left: .7rem; }
.swatch { width: .8em; height: .8em; vertical-align: -.06em; margin-right: .45em; overflow: visible; }
.swatch rect { stroke: var(--soft); stroke-width: 1; }
.notes { list-style: none; margin-top: .5rem; font-size: .875rem; }
.notes li { padding: .3rem .6rem; border-radius: .3rem; margin-top: .3rem; background: var(--glass); }
.notes li.warn { background: var(--warn-tint); color: var(--ink); }
details > summary { cursor: pointer; } summary h2 { display: inline-block; }
.more { margin-top: .45rem; font-size: .875rem; font-weight: 400; color: var(--soft); }
figcaption { color: var(--soft); font-size: .875rem; }
.more dd { user-select: all; }
.more dt { margin-top: .35rem; font-weight: 600; } .more dd { color: var(--ink); }

.scroll { overflow-x: auto; }
.list table, .history table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.list th, .list td, .history th, .history td {
  padding: .45rem .9rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); font-weight: 400;
}
.list thead th, .history thead th { border-top: 0; color: var(--soft); font-size: .8125rem; }
.list tbody th { font-weight: 600; width: 40%; }
.history { padding: .9rem 1.1rem; }
.history th, .history td { padding-left: 0; white-space: nowrap; } .history td.text { white-space: pre-wrap; }
.history details { margin-top: .6rem; font-size: .875rem; }
.bars { display: block; width: 100%; height: 5.5rem; } .bars.low { height: 2.2rem; }
.bars rect.good { fill: var(--good); } .bars rect.bad { fill: var(--bad); } .bars rect.soft { fill: var(--soft); }
.bars rect.whole { fill: transparent; } .bars g:hover rect.whole { fill: var(--glass); }
.areas + .bars { margin-top: .4rem; }
.axis { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; }
.axis { color: var(--soft); font-size: .8125rem; }
.axis + .bars { margin-top: .2rem; } .bars + .axis { border-top: 1px solid var(--line); padding-top: .15rem; }
.history .low + .axis { margin-bottom: 0; } .bars + .axis + .axis { margin-top: .7rem; }
footer { margin-top: 2rem; color: var(--soft); font-size: .875rem; }

@media (max-width: 32rem) {
  .problem figure { float: none; margin: .5rem 0 0; }
  body { padding: .6rem; }
  header { padding: .8rem .9rem 1rem; border-left-width: .45rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .5rem; } .tile { padding: .5rem .7rem .6rem; }
  .tile dd { font-size: 1.2rem; } .tile:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .list table, .list tbody, .list tr, .list tbody th, .list td { display: block; width: auto; }
  .list thead { position: absolute; clip-path: inset(50%); } .list td { border-top: 0; padding-top: 0; }
}
@media print {
  body { max-width: none; padding: 0; background: none; font-size: 9.5pt; }
  .controls, .zoom .large { display: none; }
  .card, .problem, .tile, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .cards { grid-template-columns: repeat(3, 1fr); } .card figure { height: auto; }
  .badge, .swatch rect, .bars rect, .stopped, .notes li { print-color-adjust: exact; }
  details::details-content { content-visibility: visible; display: block; block-size: auto; }
}
"""
)
