"use strict";
(() => {
  const source = document.getElementById("data");
  const data = JSON.parse(source.textContent);
  const total = data.path.length;
  if (!total) return;
  const $ = (id) => document.getElementById(id);
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const svg = (tag, attributes = {}) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const number = (value) => value.toLocaleString("en");
  const percent = (value) => `${value >= 0.1 ? (100 * value).toFixed(0) : +(100 * value).toPrecision(2)} %`;
  const reduce = (values, better) => values.reduce((best, value) => (better(value, best) ? value : best), values[0]);

  // --- what is flagged: as judged, or by the one threshold of the slider ----------------------------------------
  const decided = data.flagged.every((flag) => flag !== null);
  const lowest = reduce(data.score, (a, b) => a < b);
  const highest = reduce(data.score, (a, b) => a > b);
  // Shares pile up at 0 or at 1, where a linear axis would hide what differs: log-odds spread them.
  const TINY = 1e-7;
  const near = (from, to) => data.score.filter((score) => score >= from && score <= to).length;
  const spread = lowest >= 0 && highest <= 1 && near(0, 0.1) + near(0.9, 1) > total / 2;
  const bend = (score) => (spread ? Math.log((score + TINY) / (1 - score + TINY)) : score);
  const unbend = (place) => (spread ? (1 + 2 * TINY) / (1 + Math.exp(-place)) - TINY : place);
  const margin = 0.01 * (bend(highest) - bend(lowest) || 1);
  const left = bend(lowest) - margin, width = bend(highest) + margin - left;
  const low = unbend(left), high = unbend(left + width);
  const part = (score) => Math.min(Math.max((bend(score) - left) / width, 0), 1);
  const scoreAt = (share) => unbend(left + share * width);
  const digits = (score) => (spread ? score.toFixed(Math.min(6, 2 + Math.max(0, Math.ceil(-Math.log10(Math.min(score, 1 - score) + TINY))))) : score.toFixed(3));
  const start = Math.min(Math.max(data.threshold ?? edge(), low), high);
  let threshold = start;
  let asJudged = decided;
  const isFlagged = (i) => (asJudged ? data.flagged[i] : data.score[i] > threshold);

  // Where the file gives no threshold: below the lowest score that was flagged, or at the top.
  function edge() {
    const flagged = data.score.filter((_, i) => data.flagged[i]);
    return flagged.length ? reduce(flagged, (a, b) => a < b) - 1e-6 : high;
  }
  const oneLine = !decided || data.score.every((score, i) => (score > start) === data.flagged[i]);
  $("moving").hidden = oneLine;
  if (!decided) $("as-judged").hidden = true;

  // --- histogram ------------------------------------------------------------------------------------------------
  const WIDTH = 1000, HEIGHT = 190, TOP = 8, BASE = 164, BINS = 80;
  const x = (score) => WIDTH * part(score);
  const bins = Array.from({length: BINS}, () => 0);
  for (const score of data.score) bins[Math.min(BINS - 1, Math.floor(BINS * part(score)))]++;
  const tallest = Math.sqrt(Math.max(...bins));
  const chart = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `Histogram of ${number(total)} scores from ${lowest.toFixed(3)} to ${highest.toFixed(3)}`});
  bins.forEach((count, bin) => {
    const height = ((BASE - TOP) * Math.sqrt(count)) / tallest;
    const from = scoreAt(bin / BINS), to = scoreAt((bin + 1) / BINS);
    const bar = svg("rect", {x: (WIDTH * bin) / BINS + 0.6, y: BASE - height, width: WIDTH / BINS - 1.2, height});
    const title = svg("title");
    title.textContent = `${digits(from)} to ${digits(to)}: ${number(count)}`;
    bar.append(title);
    bar.dataset.middle = scoreAt((bin + 0.5) / BINS);
    chart.append(bar);
  });
  chart.append(svg("line", {class: "axis", x1: 0, x2: WIDTH, y1: BASE, y2: BASE}));
  for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    const text = svg("text", {x: share * WIDTH, y: BASE + 16, "text-anchor": anchor});
    text.textContent = digits(scoreAt(share));
    chart.append(text);
  }
  const limit = svg("line", {class: "limit", y1: 0, y2: BASE});
  const handle = svg("circle", {class: "handle", cy: BASE, r: 7});
  chart.append(limit, handle);
  $("histogram").append(chart, element("p", {className: "soft", textContent:
    `Heights are square roots of counts, so that few can be seen beside many.${spread ? " The axis is one of log-odds, so that scores near 0 and 1 can be told apart." : ""}`}));
  const moveTo = (event) => {
    const box = chart.getBoundingClientRect();
    setThreshold(scoreAt(Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1)));
  };
  chart.addEventListener("pointerdown", (event) => { chart.setPointerCapture(event.pointerId); moveTo(event); });
  chart.addEventListener("pointermove", (event) => { if (event.buttons & 1) moveTo(event); });

  // --- timeline -------------------------------------------------------------------------------------------------
  const line = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Scores in the order of the stream"});
  const along = (i) => (total === 1 ? WIDTH / 2 : 4 + ((WIDTH - 8) * i) / (total - 1));
  const up = (score) => BASE - (BASE - TOP) * part(score);
  const dots = {passed: svg("path", {class: "points passed"}), flagged: svg("path", {class: "points flagged"})};
  const across = svg("line", {class: "limit", x1: 0, x2: WIDTH});
  const first = svg("text", {x: 0, y: BASE + 16}), last = svg("text", {x: WIDTH, y: BASE + 16, class: "end"});
  first.textContent = "first";
  last.textContent = `${number(total)} ${data.noun}`;
  line.append(svg("line", {class: "axis", x1: 0, x2: WIDTH, y1: BASE, y2: BASE}), dots.passed, dots.flagged, across, first, last);
  $("timeline").append(line);
  line.addEventListener("click", (event) => {
    const box = line.getBoundingClientRect();
    const px = (WIDTH * (event.clientX - box.left)) / box.width, py = (HEIGHT * (event.clientY - box.top)) / box.height;
    let nearest = 0, distance = Infinity;
    for (let i = 0; i < total; i++) {
      const away = (along(i) - px) ** 2 + (up(data.score[i]) - py) ** 2;
      if (away < distance) [nearest, distance] = [i, away];
    }
    view(nearest);
  });

  // --- groups of flagged ones by what they activate -------------------------------------------------------------
  const GROUPS = 12, SMALLEST = 2;
  let group = null;
  function groups() {
    let left = [];
    for (let i = 0; i < total; i++) if (isFlagged(i) && data.evidence[i].length) left.push(i);
    const made = [];
    while (made.length < GROUPS) {
      const weights = new Map(), sizes = new Map();
      for (const i of left) for (const [word, share] of data.evidence[i]) {
        sizes.set(word, (sizes.get(word) ?? 0) + 1);
        weights.set(word, (weights.get(word) ?? 0) + share);
      }
      let best = null;
      for (const [word, size] of sizes) {
        if (best === null || size > sizes.get(best) || (size === sizes.get(best) && weights.get(word) > weights.get(best))) best = word;
      }
      if (best === null || sizes.get(best) < SMALLEST) break;
      const inside = (i) => data.evidence[i].some(([word]) => word === best);
      const members = left.filter(inside).sort((a, b) => data.score[b] - data.score[a]);
      left = left.filter((i) => !inside(i));
      made.push({word: data.words[best], members});
    }
    return made;
  }
  function drawGroups() {
    const made = groups();
    $("groups").hidden = !made.length;
    $("group-list").replaceChildren(...made.map((each) => {
      const mosaic = element("span", {className: "mosaic"});
      for (const i of each.members.filter((i) => data.pictures[i]).slice(0, 4)) mosaic.append(element("img", {src: data.pictures[i], alt: "", loading: "lazy"}));
      const button = element("button", {type: "button"}, element("b", {textContent: each.word}), ` ${number(each.members.length)}`);
      if (mosaic.childElementCount) button.append(mosaic);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        const same = button.getAttribute("aria-pressed") === "true";
        for (const other of $("group-list").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
        group = same ? null : new Set(each.members);
        button.setAttribute("aria-pressed", String(!same));
        drawCards();
        if (!same) $("gallery").scrollIntoView();
      });
      return element("li", {}, button);
    }));
  }

  // --- gallery --------------------------------------------------------------------------------------------------
  const PAGE = 60;
  const selected = new Set();
  let order = [], drawn = 0;
  const folderOf = (path) => path.slice(0, Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"), 0));
  const folders = data.links.length ? data.path.map(folderOf) : [];
  const fill = (select, values) => select.append(...values.map((value) => element("option", {value, textContent: value || "(none)"})));
  fill($("label"), [...data.labels].sort((a, b) => a.localeCompare(b)));
  fill($("folder"), [...new Set(folders)].sort().filter((name) => name));
  if (new Set(folders).size < 2) $("folder").parentElement.hidden = true;
  const text = data.path.map((path, i) =>
    [path, data.labels[data.label[i]], ...data.evidence[i].map(([word]) => data.words[word])].join("\n").toLowerCase());

  function ordered() {
    const verdict = document.querySelector("[name=verdict]:checked").value;
    const label = $("label").value, folder = $("folder").value, wanted = $("search").value.trim().toLowerCase();
    const rows = [];
    for (let i = 0; i < total; i++) {
      if (verdict !== "all" && isFlagged(i) !== (verdict === "flagged")) continue;
      if (label && data.labels[data.label[i]] !== label) continue;
      if (folder && folders[i] !== folder) continue;
      if (group && !group.has(i)) continue;
      if (wanted && !text[i].includes(wanted)) continue;
      rows.push(i);
    }
    const by = {
      high: (a, b) => data.score[b] - data.score[a],
      low: (a, b) => data.score[a] - data.score[b],
      near: (a, b) => Math.abs(part(data.score[a]) - part(threshold)) - Math.abs(part(data.score[b]) - part(threshold)),
      stream: (a, b) => a - b,
      name: (a, b) => (data.path[a] < data.path[b] ? -1 : data.path[a] > data.path[b] ? 1 : 0),
    }[$("sort").value];
    return rows.sort((a, b) => by(a, b) || a - b);
  }
  const word = (i) => (isFlagged(i) ? "OOD" : "ID");
  const reasons = (i) => data.evidence[i].map(([name, share]) => `${data.words[name]} ${percent(share)}`).join(", ");
  const why = (i) => (isFlagged(i) && data.evidence[i].length ? reasons(i) : `${data.labels[data.label[i]]} ${percent(data.share[i])}`);
  const nameOf = (path) => path.slice(folderOf(path).length).replace(/^[/\\]/, "") || path;

  function card(i) {
    const kind = isFlagged(i) ? "flagged" : "passed";
    const open = element("button", {type: "button", className: "open"});
    if (data.links.length) {
      const picture = element("img", {alt: "", loading: "lazy", decoding: "async", src: data.pictures[i] ?? data.links[i]});
      picture.addEventListener("error", () => picture.replaceWith(element("span", {className: "none", textContent: "no picture"})));
      open.append(picture);
    }
    open.append(element("span", {className: "text"},
      element("span", {}, element("span", {className: `badge ${kind}`, textContent: word(i)}), ` ${data.score[i].toFixed(4)}`),
      element("span", {textContent: why(i), title: why(i)}),
      element("span", {className: "name", textContent: nameOf(data.path[i]), title: data.path[i]})));
    open.addEventListener("click", () => view(i));
    const pick = element("input", {type: "checkbox", className: "pick", checked: selected.has(i)});
    pick.setAttribute("aria-label", `select ${data.path[i]}`);
    pick.addEventListener("change", () => choose(i, pick.checked));
    const made = element("li", {className: `card ${kind}`}, open, element("label", {className: "pick-area"}, pick));
    made.dataset.row = i;
    return made;
  }
  function drawMore() {
    const next = order.slice(drawn, drawn + PAGE);
    drawn += next.length;
    $("cards").append(...next.map(card));
    $("more").hidden = drawn >= order.length;
    tellShown();
  }
  function drawCards() {
    order = ordered();
    drawn = 0;
    $("cards").classList.toggle("plain", !data.links.length);
    $("cards").replaceChildren();
    drawMore();
  }
  function tellShown() {
    const some = selected.size ? `; ${number(selected.size)} selected` : "";
    const inGroup = group ? " in this group" : "";
    $("shown").textContent = `${number(order.length)} of ${number(total)} ${data.noun}${inGroup}${some}`;
    $("export").disabled = !selected.size;
  }
  function choose(i, on) {
    if (on) selected.add(i); else selected.delete(i);
    const pick = $("cards").querySelector(`[data-row="${i}"] .pick`);
    if (pick) pick.checked = on;
    tellShown();
  }
  $("more").addEventListener("click", drawMore);
  new IntersectionObserver((seen) => { if (seen.some((each) => each.isIntersecting) && drawn < order.length) drawMore(); },
    {rootMargin: "600px"}).observe($("more"));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("change", drawCards);
  let waiting = 0;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(drawCards, 120); });
  $("select-shown").addEventListener("click", () => { order.forEach((i) => selected.add(i)); redrawPicks(); });
  $("clear").addEventListener("click", () => { selected.clear(); redrawPicks(); });
  function redrawPicks() {
    for (const made of $("cards").children) made.querySelector(".pick").checked = selected.has(Number(made.dataset.row));
    tellShown();
  }
  $("export").addEventListener("click", () => {
    const paths = [...selected].sort((a, b) => a - b).map((i) => data.path[i]);
    // A name with a line end in it would be two names in a list of lines.
    const plain = paths.every((path) => !/[\r\n]/.test(path));
    const content = plain ? paths.map((path) => `${path}\n`).join("") : JSON.stringify(paths, null, 1);
    const link = element("a", {href: URL.createObjectURL(new Blob([content], {type: "text/plain"})),
      download: plain ? "selected.txt" : "selected.json"});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  // --- one of them, large ---------------------------------------------------------------------------------------
  let viewed = 0;
  function view(i) {
    viewed = i;
    const image = $("viewer-image");
    image.parentElement.hidden = !data.links.length;
    if (data.links.length) {
      image.onerror = () => { image.onerror = null; if (data.pictures[i]) image.src = data.pictures[i]; else image.parentElement.hidden = true; };
      image.src = data.links[i];
      image.alt = data.path[i];
      $("viewer-link").href = data.links[i];
    }
    $("viewer-link").hidden = !data.links.length;
    $("viewer-title").textContent = nameOf(data.path[i]);
    $("viewer-path").textContent = data.path[i];
    $("viewer-verdict").replaceChildren(element("span", {className: `badge ${isFlagged(i) ? "flagged" : "passed"}`, textContent: word(i)}),
      ` score ${data.score[i].toFixed(4)}, ${isFlagged(i) ? "above" : "not above"} ${asJudged ? "the threshold of its moment" : threshold.toFixed(4)}`);
    const bar = (name, share, kind) => {
      const made = element("div", {className: `bar ${kind}`}, element("span", {textContent: name}), element("span", {textContent: percent(share)}));
      made.style.setProperty("--share", `${100 * share}%`);
      return made;
    };
    const list = [element("p", {className: "soft", textContent: "Best of the classes, with its share among them:"}),
      bar(data.labels[data.label[i]], data.share[i], "known")];
    if (data.evidence[i].length) {
      list.push(element("p", {className: "soft", textContent: "Negative labels that it activated:"}),
        ...data.evidence[i].map(([name, share]) => bar(data.words[name], share, "")));
    }
    $("viewer-reasons").replaceChildren(...list);
    $("viewer-select").checked = selected.has(i);
    const place = order.indexOf(i);
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place >= order.length - 1;
    if (!$("viewer").open) $("viewer").showModal();
  }
  const step = (by) => {
    const place = order.indexOf(viewed) + by;
    if (order.includes(viewed) && place >= 0 && place < order.length) view(order[place]);
  };
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("viewer-select").addEventListener("change", () => choose(viewed, $("viewer-select").checked));
  $("viewer").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) $("viewer").close(); });

  // --- the threshold moves all of it ----------------------------------------------------------------------------
  function drawThreshold() {
    let flagged = 0;
    const marks = {passed: [], flagged: []};
    for (let i = 0; i < total; i++) {
      const on = isFlagged(i);
      flagged += on ? 1 : 0;
      marks[on ? "flagged" : "passed"].push(`M${along(i).toFixed(1)} ${up(data.score[i]).toFixed(1)}h0`);
    }
    dots.passed.setAttribute("d", marks.passed.join(""));
    dots.flagged.setAttribute("d", marks.flagged.join(""));
    for (const bar of chart.querySelectorAll("rect")) bar.setAttribute("class", Number(bar.dataset.middle) > threshold ? "flagged" : "passed");
    limit.setAttribute("x1", x(threshold));
    limit.setAttribute("x2", x(threshold));
    handle.setAttribute("cx", x(threshold));
    across.setAttribute("y1", up(threshold));
    across.setAttribute("y2", up(threshold));
    $("threshold").value = Math.round(1000 * part(threshold));
    $("threshold").setAttribute("aria-valuetext", threshold.toFixed(4));
    $("threshold-value").textContent = threshold.toFixed(4);
    $("as-judged").disabled = asJudged;
    $("count").textContent = `${number(flagged)} of ${number(total)} flagged (${percent(flagged / total)})${asJudged ? ", as judged" : " with this threshold for all"}`;
  }
  let pending = 0;
  function setThreshold(value) {
    threshold = value;
    asJudged = false;
    drawThreshold();
    clearTimeout(pending);
    pending = setTimeout(() => { group = null; drawGroups(); drawCards(); }, 150);
  }
  $("threshold").addEventListener("input", () => setThreshold(scoreAt($("threshold").value / 1000)));
  $("as-judged").addEventListener("click", () => {
    threshold = start;
    asJudged = true;
    group = null;
    drawThreshold();
    drawGroups();
    drawCards();
  });
  drawThreshold();
  drawGroups();
  drawCards();
})();
