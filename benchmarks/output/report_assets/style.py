"""The report's style sheet and its few lines of script, without which the page works too."""

CSS = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1b2127; --soft: #59636d; --line: #dddcd5;
  --tint: #f1f0ea; --id: #0072b2; --ood: #c84b00; --best: #e3eff6;
  --s0: #0072b2; --s1: #c84b00; --s2: #008f68; --s3: #b4608f; --s4: #a67500; --s5: #3f9fd8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1b1f23; --ink: #e7e5e0; --soft: #a0a8b0;
  --line: #343a40; --tint: #22272c; --id: #58b4ec; --ood: #f79a4e; --best: #1d3442;
  --s0: #58b4ec; --s1: #f79a4e; --s2: #38c795; --s3: #e39cc6; --s4: #e9c341; --s5: #b5defa; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 ui-sans-serif, system-ui, -apple-system,
  "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 40px; }
h1 { font-size: clamp(1.5rem, 1.1rem + 1.8vw, 2.15rem); line-height: 1.2; margin: 0 0 10px; letter-spacing: -0.012em;
  text-wrap: balance; }
h1 span { white-space: nowrap; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 48px 0 8px; letter-spacing: -0.006em; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 10px; max-width: 84ch; }
.lead, .soft, .meaning { color: var(--soft); }
.meaning { font-size: .9rem; margin: 0; }
code { font: .85em/1.5 ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
a { color: var(--id); }
.notes { border-left: 3px solid var(--ood); background: var(--tint); padding: 10px 16px; margin: 18px 0;
  border-radius: 0 6px 6px 0; }
.notes ul { margin: 0; padding-left: 1.1em; }
.notes li { overflow-wrap: anywhere; font-size: .92rem; }
nav { display: flex; flex-wrap: wrap; gap: 6px 8px; margin: 18px 0 0; }
nav a, button { border: 1px solid var(--line); border-radius: 999px; padding: 3px 12px; font: inherit;
  font-size: .88rem;
  color: var(--ink); background: var(--card); text-decoration: none; cursor: pointer; }
nav a:hover, button:hover { border-color: var(--soft); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  margin: 12px 0; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .92rem; }
th, td { padding: 7px 11px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; color: var(--soft); font-size: .84rem; vertical-align: bottom; background: var(--tint); }
thead small { display: block; font-weight: 400; }
tbody th { text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--card); z-index: 1; }
thead th:first-child { text-align: left; position: sticky; left: 0; z-index: 1; }
td.mean { background: color-mix(in srgb, var(--tint) 60%, transparent); }
td.best { background: var(--best); }
td.best b::after { content: " \\2605"; font-size: .7em; color: var(--id); vertical-align: .15em; }
td b { font-size: 1.04rem; }
td span { display: block; color: var(--soft); font-size: .76rem; line-height: 1.4; }
td small, .pm { color: var(--soft); font-weight: 400; font-size: .8rem; }
.facts th, .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts th { width: 14em; font-weight: 500; color: var(--soft); }
details.set { border: 1px solid var(--line); border-radius: 8px; background: var(--card); margin: 10px 0; }
details.set > summary { cursor: pointer; padding: 11px 16px; display: flex; flex-wrap: wrap; gap: 2px 14px;
  align-items: baseline; list-style: none; }
details.set > summary::-webkit-details-marker { display: none; }
details.set > summary::before { content: ""; width: 7px; height: 7px; border: solid var(--soft);
  border-width: 0 2px 2px 0;
  transform: rotate(-45deg); flex: none; align-self: center; }
details.set[open] > summary::before { transform: rotate(45deg); }
details.set[open] > summary { border-bottom: 1px solid var(--line); }
summary .name { font-weight: 650; overflow-wrap: anywhere; }
summary .figures { margin-left: auto; color: var(--soft); font-size: .88rem; }
.role { font-size: .74rem; border: 1px solid var(--line); border-radius: 4px; padding: 0 6px; color: var(--soft); }
.inside { padding: 16px; }
.inside > section + section { margin-top: 26px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px 20px; }
.pair svg { max-width: 500px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 18px 32px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .86rem; margin-bottom: 4px; }
figcaption span { color: var(--soft); }
.grid figcaption span { display: block; font-size: .8rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft);
  font: 9.5px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg .id { fill: var(--id); fill-opacity: .42; }
svg .ood { fill: var(--ood); fill-opacity: .12; stroke: var(--ood); stroke-width: 1.2; stroke-linejoin: round; }
svg .axis, svg .grid { stroke: var(--line); fill: none; }
svg .guide { stroke: var(--soft); stroke-dasharray: 2 3; fill: none; }
svg .line { fill: none; stroke-width: 1.4; stroke-linejoin: round; }
svg .bold { stroke-width: 3; }
svg .dash1 { stroke-dasharray: 6 3; } svg .dash2 { stroke-dasharray: 2 2; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }
.s4 { stroke: var(--s4); } .s5 { stroke: var(--s5); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; margin: 10px 0 0;
  font-size: .84rem; }
.legend li { display: flex; align-items: center; gap: 6px; }
svg.swatch { width: 24px; height: 8px; flex: none; }
.key { display: inline-block; width: 12px; height: 12px; vertical-align: -1px; margin-right: 4px;
  border-radius: 2px; }
.key.id { background: color-mix(in srgb, var(--id) 42%, transparent); }
.key.ood { border: 1.5px solid var(--ood); background: color-mix(in srgb, var(--ood) 12%, transparent); }
ol.words { list-style: none; margin: 0; padding: 0; columns: 260px; column-gap: 28px; font-size: .88rem; }
.words li { position: relative; break-inside: avoid; display: flex; justify-content: space-between; gap: 10px;
  padding: 2px 8px;
  margin-bottom: 3px; }
.words li::before { content: ""; position: absolute; inset: 0 auto 0 0; width: var(--share); background: var(--ood);
  opacity: .17; border-radius: 3px; }
.words span { overflow-wrap: anywhere; } .words data { color: var(--soft); }
.others { font-size: .86rem; color: var(--soft); margin: 10px 0 0; max-width: none; overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); gap: 12px; padding: 0;
  margin: 0 0 6px;
  list-style: none; }
.gallery li { font-size: .76rem; line-height: 1.35; color: var(--soft); min-width: 0; }
.gallery img, .gallery .none { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; }
.gallery .none { display: grid; place-items: center; text-align: center; background: var(--tint); padding: 4px; }
.gallery span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.gallery b { color: var(--ink); font-weight: 600; }
footer { margin-top: 56px; padding-bottom: 60px; }
@media (max-width: 560px) { main, header, footer { padding-left: 14px; padding-right: 14px;
  } header { padding-top: 24px; }
  th, td { padding: 6px 9px; } tbody th, thead th:first-child { white-space: normal; min-width: 7em;
  max-width: 8.5em; }
  summary .figures { margin-left: 0; width: 100%; padding-left: 21px; } .inside { padding: 12px; }
  .grid { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); } .facts th { width: 40%; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(68px, 1fr)); gap: 10px; } }
@media print { :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
  --tint: #f4f4f4; --id: #0072b2; --ood: #c84b00; --best: #e3eff6;
  --s0: #0072b2; --s1: #c84b00; --s2: #008f68; --s3: #b4608f; --s4: #a67500; --s5: #3f9fd8; }
  body { font-size: 10pt; } nav, button { display: none; } header { padding-top: 0; }
  details.set::details-content { content-visibility: visible; display: block; block-size: auto; }
  .gallery { grid-template-columns: repeat(12, 1fr); gap: 6px; }
  .scroll { overflow: visible; } th, td { padding: 3px 5px; } tbody th { position: static; }
  figure, .gallery li, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

# Buttons that only a script can serve are made by it.
SCRIPT = """
const sets = document.querySelectorAll("details.set");
const all = (open) => sets.forEach((part) => { part.open = open; });
const bar = document.querySelector("nav");
for (const [text, open] of [["open all", true], ["close all", false]]) {
  const button = document.createElement("button");
  button.type = "button"; button.textContent = text; button.onclick = () => all(open); bar.append(button);
}
let before = [];
addEventListener("beforeprint", () => { before = [...sets].map((part) => part.open); all(true); });
addEventListener("afterprint", () => sets.forEach((part, index) => { part.open = before[index]; }));
"""
