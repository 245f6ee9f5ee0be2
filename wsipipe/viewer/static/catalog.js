// The page of all slides and results: asks what there is every few seconds, for runs that are under way.
"use strict";

const EVERY = 5000; // milliseconds
const MOST_BESIDE = 4;
const SORTS = {
  "by name": (a, b) => a.name.localeCompare(b.name),
  "by status": (a, b) => a.done - b.done || a.name.localeCompare(b.name),
  "most objects first": (a, b) => objects_of(b) - objects_of(a) || a.name.localeCompare(b.name),
};
const cards = new Map();
const chosen = new Set();
let entries = [];

const objects_of = (entry) => entry.counts.reduce((sum, one) => sum + one.objects, 0);

function counts_of(one) {
  const density = one.per_mm2 === null ? "" : `, ${numbers.format(Math.round(one.per_mm2))} per mm²`;
  const share = one.area_share === null ? "" : `, ${(100 * one.area_share).toFixed(1)}% of the area`;
  return `${one.name}: ${counted(one.objects)}${density}${share}`;
}

function card_of(entry) {
  const key = JSON.stringify(entry);
  const held = cards.get(entry.number);
  if (held && held.dataset.key === key) return held;
  const picture = made("img", { src: `thumbnail/${entry.number}?${encodeURIComponent(entry.status)}`, alt: "", loading: "lazy" });
  picture.addEventListener("error", () => picture.replaceWith("no picture"));
  const box = made("input", { type: "checkbox", "aria-label": "side by side", title: "choose two to four, to see them side by side" });
  box.checked = chosen.has(entry.number);
  box.addEventListener("change", () => {
    chosen[box.checked ? "add" : "delete"](entry.number);
    compare();
  });
  const kind = { done: "good", failed: "bad", slide: "soft" }[entry.status] || "warn";
  const card = made(
    "article", { title: `${entry.folder}/${entry.name}` },
    made("a", { href: `look?items=${entry.number}`, class: "picture" }, picture),
    made("div", { class: "title" }, box, made("span", { class: `badge ${kind}` }, entry.status), made("a", { href: `look?items=${entry.number}` }, entry.name)),
    ...entry.counts.map((one) => made("p", { class: "soft" }, counts_of(one))),
  );
  if (entry.message) card.append(made("p", { class: "warn" }, entry.message));
  card.dataset.key = key;
  cards.set(entry.number, card);
  return card;
}

function compare() {
  const button = by_id("compare");
  button.disabled = chosen.size < 2 || chosen.size > MOST_BESIDE;
  button.textContent = chosen.size ? `${chosen.size} side by side` : "side by side";
  button.title = button.disabled ? `choose two to ${MOST_BESIDE} of them` : "";
}

function draw() {
  const wanted = by_id("filter").value.toLowerCase();
  const shown = entries.filter((entry) => `${entry.name} ${entry.status}`.toLowerCase().includes(wanted));
  shown.sort(SORTS[by_id("sort").value]);
  by_id("cards").replaceChildren(...shown.map(card_of));
  if (entries.length && !shown.length) by_id("cards").append(made("p", { class: "soft" }, "no name or status has this text"));
  const finished = entries.filter((entry) => entry.status === "done").length;
  by_id("name").textContent = entries.length ? `${entries.length} ${entries.length === 1 ? "slide or result" : "slides and results"}, ${finished} done` : "no results yet";
}

async function refresh() {
  try {
    const answer = await fetch("catalog");
    if (answer.ok) {
      entries = await answer.json();
      draw();
    } else {
      by_id("name").textContent = await answer.text();
    }
    document.body.dataset.ready = "yes";
  } catch {
    by_id("name").textContent = "the viewer has ended";
  }
  setTimeout(refresh, EVERY);
}

compare();
for (const name of Object.keys(SORTS)) by_id("sort").append(made("option", {}, name));
by_id("filter").addEventListener("input", draw);
by_id("sort").addEventListener("change", draw);
by_id("compare").addEventListener("click", () => { location.href = `look?items=${[...chosen].join(",")}`; });
refresh();
