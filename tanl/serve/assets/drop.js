// Sends dropped images to the service and shows what it says, the latest first. All text goes in as text.
const find = (selector) => element.querySelector(selector);
const zone = find(".zone"), input = find(".zone input"), cards = find(".cards");
const said = find(".said"), failed = find(".failed"), bar = find(".bar");
const AT_ONCE = 16, BYTES_AT_ONCE = 24 * 1024 * 1024, MOST_CARDS = 600;
const counts = { id: 0, ood: 0, none: 0, error: 0 };
let shown = "all", queue = Promise.resolve();

const made = (name, className, text) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const percent = (share) => `${(100 * share).toPrecision(share < 0.1 ? 2 : 3).replace(/\.?0+$/, "")} %`;

function* batches(files) {
  let batch = [], bytes = 0;
  for (const file of files) {
    if (batch.length && (batch.length === AT_ONCE || bytes + file.size > BYTES_AT_ONCE)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(file);
    bytes += file.size;
  }
  if (batch.length) yield batch;
}

async function ask(path, files) {
  const body = new FormData();
  for (const file of files) body.append("images", file, file.name);
  let answer;
  try {
    answer = await fetch(path, { method: "POST", body });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const refused = new Error(content.error || `The service answered ${answer.status}.`);
    refused.status = answer.status;
    throw refused;
  }
  return content;
}

function card(file, result, threshold) {
  const kind = result.error ? "error" : result.is_ood === null ? "none" : result.is_ood ? "ood" : "id";
  counts[kind] += 1;
  const item = made("li", `card ${kind}`);
  item.dataset.kind = kind;
  const picture = made("div", "picture");
  const image = made("img");
  image.alt = "";
  image.loading = "lazy";
  image.src = URL.createObjectURL(file);
  image.onerror = () => image.replaceWith(made("span", "", "no preview"));
  item.release = () => URL.revokeObjectURL(image.src);
  picture.append(image, made("span", "badge", { id: "ID", ood: "OOD", none: "no threshold", error: "unreadable" }[kind]));
  const text = made("div", "text");
  text.append(made("p", "name", result.name));
  text.lastChild.title = result.name;
  if (result.error) {
    text.append(made("p", "why", result.error));
  } else {
    const best = made("p", "best");
    best.append(made("span", "", kind === "ood" ? "nearest class " : ""), made("b", "", result.label));
    if (kind !== "ood") best.append(made("span", "", ` ${percent(result.id_probability)}`));
    text.append(best, meter(result.ood_score, threshold));
    if (result.evidence.length) {
      const reasons = made("ul", "evidence");
      reasons.setAttribute("aria-label", "negative labels that it activates");
      for (const each of result.evidence.slice(0, 4)) {
        const reason = made("li", "", each.label);
        reason.append(made("small", "", ` ${percent(each.probability)}`));
        reasons.append(reason);
      }
      text.append(reasons);
    }
  }
  item.append(picture, text);
  item.hidden = shown !== "all" && shown !== kind;
  return item;
}

function meter(score, threshold) {
  const whole = made("div", "meter");
  whole.setAttribute("role", "img");
  const at = threshold === null ? "no threshold" : `threshold ${threshold.toFixed(3)}`;
  whole.setAttribute("aria-label", `OOD score ${score.toFixed(3)}, ${at}`);
  const share = (value) => `${100 * Math.min(1, Math.max(0, value))}%`;
  const line = made("span", "line"), fill = made("span", "fill");
  // Some methods' scores are not between 0 and 1: they are told as numbers alone.
  if (score >= 0 && score <= 1) {
    fill.style.width = share(score);
    line.append(fill);
    if (threshold !== null && threshold >= 0 && threshold <= 1) {
      const tick = made("span", "tick");
      tick.style.left = share(threshold);
      line.append(tick);
    }
    whole.append(line);
  }
  whole.append(made("span", "number", score.toFixed(3)));
  return whole;
}

function tell() {
  const parts = [`${counts.id} ID`, `${counts.ood} OOD`];
  if (counts.none) parts.push(`${counts.none} without a threshold`);
  if (counts.error) parts.push(`${counts.error} unreadable`);
  find(".counts").textContent = parts.join(", ");
  bar.hidden = !cards.children.length;
}

async function take(files, mode) {
  failed.textContent = "";
  zone.classList.add("busy");
  try {
    if (mode === "calibrate") {
      said.textContent = `Calibrating with ${files.length} images …`;
      const made = await ask("/calibrate", files);
      const left = made.unreadable.length ? ` ${made.unreadable.length} could not be read.` : "";
      said.textContent = `Threshold ${made.threshold.toFixed(3)}, from ${made.count} images.${left}`;
    } else {
      let done = 0;
      for (const batch of batches(files)) {
        said.textContent = `${mode === "score" ? "Scoring" : "Judging"} ${done + 1} to ${done + batch.length} of ${files.length} …`;
        const answer = await ask(`/${mode}`, batch).catch((error) => {
          if (error.status !== 422) throw error;
          // None of this batch can be used; the next may.
          return { threshold: null, results: batch.map((file) => ({ name: file.name, error: error.message })) };
        });
        const fresh = answer.results.map((result, place) => card(batch[place], result, answer.threshold));
        cards.prepend(...fresh);
        while (cards.children.length > MOST_CARDS) {
          cards.lastChild.release();
          cards.lastChild.remove();
        }
        done += batch.length;
        tell();
      }
      said.textContent = `${done} image${done === 1 ? "" : "s"} ${mode === "score" ? "scored, nothing learnt" : "judged"}.`;
    }
  } catch (error) {
    said.textContent = "";
    failed.textContent = error.message;
  } finally {
    zone.classList.remove("busy");
    trigger("submit");
  }
}

function begin(files) {
  const images = [...files];
  const mode = find("input[name=mode]:checked").value;
  if (images.length) queue = queue.then(() => take(images, mode)); // one after the other, as they were dropped
}

input.addEventListener("change", () => { begin(input.files); input.value = ""; });
for (const kind of ["dragenter", "dragover"]) {
  zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
}
zone.addEventListener("dragleave", () => zone.classList.remove("over"));
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  begin(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) begin(event.clipboardData.files);
});
for (const button of element.querySelectorAll(".filters button")) {
  button.addEventListener("click", () => {
    shown = button.dataset.show;
    for (const each of element.querySelectorAll(".filters button")) {
      each.setAttribute("aria-pressed", String(each === button));
    }
    for (const item of cards.children) item.hidden = shown !== "all" && shown !== item.dataset.kind;
  });
}
find(".clear").addEventListener("click", () => {
  for (const item of cards.children) item.release();
  cards.replaceChildren();
  for (const kind of Object.keys(counts)) counts[kind] = 0;
  said.textContent = failed.textContent = "";
  tell();
});
