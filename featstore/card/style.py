"""The look of clipfeat's pages: colours, sizes of text and spacing, in light and dark, in one place.

Everything else refers to these custom properties. Text has a contrast of at least 4.5 to 1 with what
is behind it, curves and columns of charts 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11).
"""

PROPERTIES = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --raised: #ffffff; --ink: #1d2126; --faint: #5b636d; --line: #d9dcd6;
  --accent: #1f5fa8; --second: #0f766e; --warning: #9a3412; --warning-paper: #fff3e8;
  --hatch: #c9cdc6; --mark: #7d8790;
  --text-small: .8125rem; --text: 1rem; --text-lead: 1.1875rem; --text-section: 1.375rem;
  --text-title: clamp(1.75rem, 1.2rem + 2.4vw, 2.75rem); --text-number: 1.75rem;
  --gap: 1rem; --radius: 8px;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --raised: #1c2024; --ink: #e7e9ea; --faint: #a3abb3; --line: #343a40;
    --accent: #7ab3f5; --second: #4fc3b5; --warning: #fdba74; --warning-paper: #33231a;
    --hatch: #454c53; --mark: #8b949d;
  }
}
"""

ELEMENTS = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: var(--text)/1.55 var(--font);
  overflow-wrap: anywhere; }
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
header { padding-top: clamp(1.5rem, 5vw, 3.5rem); }
h1 { font-size: var(--text-title); line-height: 1.15; margin: 0 0 .5rem; letter-spacing: -.015em; }
h2 { font-size: var(--text-section); line-height: 1.25; margin: 0 0 .5rem; }
h3 { font-size: var(--text); margin: 0 0 .35rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
section { border-top: 1px solid var(--line); padding: 1.75rem 0; }
a { color: var(--accent); }
code, pre { font-family: var(--mono); font-size: .875em; }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: var(--radius);
  padding: .75rem 1rem; margin: 0 0 var(--gap); overflow-x: auto; white-space: pre;
  overflow-wrap: normal; }
pre:focus-visible, a:focus-visible, .wide:focus-visible { outline: 3px solid var(--accent);
  outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; margin: 0 0 .25rem; }
.cards + table, .tiles + table, .wide + table, .steps + table { margin-top: 1.25rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0;
  border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; color: var(--faint); width: 15rem; }
thead th { font-size: var(--text-small); color: var(--faint); font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; width: 6rem; }
figure { margin: 0; }
figcaption, .faint { color: var(--faint); font-size: var(--text-small); }
.lead { font-size: var(--text-lead); color: var(--faint); }
.warning { background: var(--warning-paper); border-left: 4px solid var(--warning);
  border-radius: 4px; padding: .6rem .9rem; max-width: none; }
.wide { overflow-x: auto; }
.wide table { min-width: 36rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: var(--gap); margin: 1.5rem 0; }
.numbers div { display: flex; flex-direction: column-reverse; justify-content: flex-end;
  background: var(--raised); border: 1px solid var(--line); border-radius: var(--radius);
  padding: .8rem 1rem; }
.faint + .numbers { margin-top: 1rem; }
.numbers dd { margin: 0; font-size: var(--text-number); line-height: 1.15; font-weight: 600; }
.numbers dt { color: var(--faint); font-size: var(--text-small); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
  gap: calc(1.5 * var(--gap)); list-style: none; margin: 0; padding: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: var(--gap); list-style: none; margin: 0; padding: 0; }
.tiles + h3, .cards + h3 { margin-top: 1.5rem; }
.tiles.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17.5rem), 1fr)); }
.pair { display: flex; gap: .4rem; align-items: flex-start; margin-bottom: .4rem; }
.pair > * { display: block; max-width: 100%; max-height: 11.5rem; border-radius: 3px; }
.pairs .pair > * { max-width: calc(50% - .2rem); }
.grid, .map { background: repeating-linear-gradient(45deg, var(--hatch) 0 1.5px,
  transparent 1.5px 6px); }
.map { display: block; width: 100%; height: auto; max-height: 22rem; object-fit: contain;
  object-position: left; border-radius: 3px; }
.steps { display: flex; flex-wrap: wrap; gap: 1.25rem 1.5rem; align-items: flex-end;
  list-style: none; margin: 0 0 var(--gap); padding: 0; }
.steps svg { display: block; max-width: 100%; height: auto; margin-bottom: .4rem; }
.steps strong { display: block; }
.steps span { display: block; max-width: 9.5rem; min-height: 2.6rem; line-height: 1.3; }
.bar { display: flex; height: .9rem; border-radius: 4px; overflow: hidden; gap: 2px;
  margin: .25rem 0 1rem; background: var(--line); }
.bar span { background: var(--mark); min-width: 3px; }
.bar .ok { background: var(--second); }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--faint); font: 11px var(--font); }
.chart .axis { stroke: var(--line); stroke-width: 1; }
.chart .band { fill: var(--accent); opacity: .22; }
.chart .curve { fill: none; stroke: var(--accent); stroke-width: 2; }
.chart .column { fill: var(--accent); }
.scale { display: flex; align-items: center; gap: .5rem; margin-top: .35rem;
  font-size: var(--text-small); color: var(--faint); }
.scale i { flex: 1; height: .5rem; border-radius: 2px; min-width: 3rem; }
.outline { fill: none; stroke: var(--ink); stroke-width: 1.25; }
.cells { fill: none; stroke: #fff; stroke-width: .8; opacity: .9; }
.lost { fill: var(--paper); opacity: .72; }
.padding { fill: url(#hatch); stroke: var(--mark); stroke-width: 1; }
.kept { fill: none; stroke: var(--warning); stroke-width: 2; stroke-dasharray: 5 3; }
.hidden { position: absolute; width: 0; height: 0; }
@media (max-width: 34rem) {
  tbody th { width: 8rem; }
  .numbers { grid-template-columns: 1fr 1fr; }
  .numbers dd { font-size: 1.375rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
}
@media print { pre { white-space: pre-wrap; } section { break-inside: avoid; } }
"""

STYLE = PROPERTIES + ELEMENTS
