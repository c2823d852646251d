// Buttons that only a script can serve are made by it; without it the page works too.
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
