// The page of one slide or several: bokeh draws, this file connects its plots with the panel beside them.
"use strict";

const MOST_TILES = 800; // that a plot holds before those out of sight are let go
const items = (new URLSearchParams(location.search).get("items") || "0").split(",").map(Number);

async function asked(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function later(milliseconds, action) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

class Viewer {
  constructor(about, document_) {
    this.about = about;
    this.document = document_;
    this.shared = document_.get_model_by_name(`plot-${items[0]}`);
    this.x = this.shared.x_range;
    this.y = this.shared.y_range;
    this.unit = about.every((one) => one.mpp) ? (i) => about[i].mpp : () => 1;
    this.outlined = new Set(items);
    this.asking = new Map(); // of each item, the latest request for outlines
    this.shown = new Map(items.map((item, i) => [item, new Set(about[i].classes.map((one) => one.label))]));
    const changed = later(150, () => this.settled());
    for (const range of [this.x, this.y]) range.change.connect(() => { this.drawn(); changed(); });
    this.keep_scale();
    this.point_at_drawn();
  }

  // Each layer of bokeh would rescale the ranges, which all layers share, when the window is resized or it is first shown.
  keep_scale() {
    this.size = this.frame();
    items.forEach((item, i) => {
      for (const layer of this.about[i].layers) {
        const view = views_of(this.model(layer, item));
        view._map_data = () => {};
        view._enforce_aspect_ratio = () => this.resized();
      }
    });
  }

  // Outlines that have just come have no place on the screen before they are drawn; bokeh would look for it all the same.
  point_at_drawn() {
    for (const item of items) {
      const outlines = this.model("outlines", item);
      if (!outlines) continue;
      const { glyph } = views_of(outlines);
      const hit_test = glyph.hit_test.bind(glyph);
      glyph.hit_test = (geometry) => (glyph.sxs.length === glyph.data_size ? hit_test(geometry) : null);
    }
  }

  // The whole slide stays whole; of a part, the middle and the scale stay.
  resized() {
    const { width, height } = this.frame();
    const { width: before } = this.size;
    if (width === before && height === this.size.height) return;
    this.size = { width, height };
    const { start: x0, end: x1 } = this.x;
    if (this.is_whole === `${x0} ${x1}`) this.whole();
    else this.go((x0 + x1) / 2, (this.y.start + this.y.end) / 2, ((x1 - x0) * width) / before);
  }

  model(name, item) {
    return this.document.get_model_by_name(`${name}-${item}`);
  }

  // Ask for the tiles of a layer anew.
  renew(layer, item, query) {
    const source = this.model(layer, item).tile_source;
    source.url = source.url.split("?")[0] + query;
    this.forget(layer, item);
  }

  forget(layer, item) {
    const renderer = this.model(layer, item);
    renderer.tile_source.tiles.clear();
    const view = views_of(renderer);
    if (view) view._tiles = [];
    renderer.change.emit();
  }

  show_classes(item) {
    if (!this.model("labels", item)) return;
    const shown = [...this.shown.get(item)].sort((a, b) => a - b).join(",");
    this.renew("labels", item, `?shown=${shown}`);
  }

  go(center_x, center_y, width) {
    const { width: w, height: h } = this.frame();
    this.x.setv({ start: center_x - width / 2, end: center_x + width / 2 });
    this.y.setv({ start: center_y - (width * h) / w / 2, end: center_y + (width * h) / w / 2 });
  }

  frame() {
    return views_of(this.shared).frame.bbox;
  }

  whole() {
    const { width: w, height: h } = this.frame();
    const [height, width] = [0, 1].map((axis) => Math.max(...this.about.map((one, i) => one.shape[axis] * this.unit(i))));
    this.go(width / 2, -height / 2, Math.max(width, (height * w) / h) * 1.02);
    this.is_whole = `${this.x.start} ${this.x.end}`;
  }

  // Go to the place that an address names, if it does.
  from_link(address) {
    const at = new URLSearchParams(new URL(address).hash.slice(1));
    const [x, y, w] = ["x", "y", "w"].map((name) => Number(at.get(name)));
    if (at.has("w") && w > 0 && Number.isFinite(x + y + w)) {
      const unit = this.unit(0);
      this.go(x * unit, -y * unit, w * unit);
      return true;
    }
    return false;
  }

  // While it moves: what is cheap.
  drawn() {
    const { start: x0, end: x1 } = this.x;
    const { start: y0, end: y1 } = this.y;
    const percent = (part, of) => `${Math.min(Math.max((100 * part) / of, 0), 100)}%`;
    document.querySelectorAll(".here").forEach((box, i) => {
      const [height, width] = this.about[i].shape.map((side) => side * this.unit(i));
      box.style.left = percent(x0, width);
      box.style.right = percent(width - x1, width);
      box.style.top = percent(-y1, height);
      box.style.bottom = percent(height + y0, height);
    });
  }

  // Once it has come to rest: the link, and the outlines.
  settled() {
    const unit = this.unit(0);
    const [x, y] = [(this.x.start + this.x.end) / 2 / unit, -(this.y.start + this.y.end) / 2 / unit];
    const place = new URLSearchParams({ x: x.toFixed(1), y: y.toFixed(1), w: ((this.x.end - this.x.start) / unit).toFixed(1) });
    history.replaceState(null, "", `#${place}`);
    items.forEach((item, i) => {
      this.outline(item, i);
      for (const layer of this.about[i].layers) {
        if (this.model(layer, item).tile_source.tiles.size > MOST_TILES) this.forget(layer, item);
      }
    });
  }

  async outline(item, i) {
    const about = this.about[i];
    if (about.objects === null) return;
    const source = this.model("outlines", item).data_source;
    const said = by_id(`said-${i}`);
    const nothing = Object.fromEntries(Object.keys(source.data).map((name) => [name, []]));
    const asking = {};
    this.asking.set(item, asking);
    if (!this.outlined.has(item)) {
      source.data = nothing;
      return;
    }
    const unit = this.unit(i);
    const query = new URLSearchParams({
      x0: this.x.start / unit, x1: this.x.end / unit, y0: -this.y.end / unit, y1: -this.y.start / unit, unit,
      tolerance: (0.5 * (this.x.end - this.x.start)) / unit / this.frame().width,
    });
    try {
      const found = await asked(`outlines/${item}?${query}`);
      if (this.asking.get(item) !== asking) return; // a later one was sent meanwhile
      source.data = found.columns || nothing;
      said.textContent = `${counted(found.objects)} in view${found.columns ? "" : "; zoom in to see outlines"}`;
    } catch (error) {
      said.textContent = error.message;
    }
  }

  // Whether all tiles in view are there.
  complete() {
    return items.every((item, i) => this.about[i].layers.every((layer) => {
      const renderer = this.model(layer, item);
      const { tile_source: source, visible } = renderer;
      if (!visible) return true;
      const extent = [this.x.start, this.y.start, this.x.end, this.y.end];
      const { width, height } = views_of(this.model("plot", item)).frame.bbox;
      const zoom = source.get_level_by_extent(extent, height, width);
      const keys = source.get_tiles_by_extent(extent, zoom, 0).map(([x, y, z]) => source.tile_xyz_to_key(x, y, z));
      return keys.every((key) => source.tiles.has(key) && source.tiles.get(key).loaded);
    }));
  }

  // [y, x] on the page of a place in pixels of the slide's finest level.
  screen_of(x, y) {
    const view = views_of(this.shared);
    const page = by_id("plots").getBoundingClientRect();
    const unit = this.unit(0);
    return [page.top + view.frame.y_scale.compute(-y * unit), page.left + view.frame.x_scale.compute(x * unit)];
  }

  // Where the pointer is, in pixels of the finest level of the slide under it, and in mm.
  pointed(event) {
    const view = views_of(this.shared);
    const canvas = event.currentTarget.getBoundingClientRect();
    const plots = items.map((item) => views_of(this.model("plot", item)).bbox);
    const sx = event.clientX - canvas.left;
    const under = Math.max(plots.findIndex((box) => sx >= box.left && sx < box.right), 0);
    const x = view.frame.x_scale.invert(sx - plots[under].left + plots[0].left) / this.unit(under);
    const y = -view.frame.y_scale.invert(event.clientY - canvas.top) / this.unit(under);
    const pixels = `x ${numbers.format(Math.floor(x))}, y ${numbers.format(Math.floor(y))} px`;
    const { mpp } = this.about[under];
    const mm = (pixel) => ((pixel * mpp) / 1000).toFixed(3);
    by_id("place").textContent = mpp ? `${pixels} · ${mm(x)}, ${mm(y)} mm` : pixels;
  }
}

let manager;
function views_of(model) {
  return manager.find_one(model);
}

function panel_of(viewer) {
  const panel = by_id("panel");
  const whole = made("button", {}, items.length > 1 ? "whole slides" : "whole slide");
  whole.addEventListener("click", () => viewer.whole());
  panel.append(whole);
  const unknown = viewer.about.filter((one) => !one.mpp).map((one) => one.name);
  if (unknown.length && items.length > 1) {
    const names = new Intl.ListFormat("en").format(unknown);
    panel.append(made("p", { class: "warn" }, `not to one scale: all are shown pixel by pixel, because the µm/px of ${names} is unknown`));
  }
  items.forEach((item, i) => panel.append(section_of(viewer, item, i)));
}

function overview_of(viewer, item, i) {
  const [height, width] = viewer.about[i].shape;
  const overview = made("div", { class: "overview", title: "the whole slide; click to go there" });
  overview.style.width = `${Math.min(100, (75 * width) / height)}%`; // upright slides are not as wide as the panel
  overview.style.aspectRatio = `${width} / ${height}`;
  if (viewer.about[i].layers.includes("slide")) {
    const image = made("img", { src: `tiles/${item}/slide/0/0/0`, alt: "" });
    const covered = (side) => (100 * 512 * 2 ** viewer.about[i].last) / side;
    image.style.width = `${covered(width)}%`;
    image.style.height = `${covered(height)}%`;
    overview.append(image);
  }
  overview.append(made("div", { class: "here" }));
  overview.addEventListener("click", (event) => {
    const box = overview.getBoundingClientRect();
    const unit = viewer.unit(i);
    viewer.go(
      ((event.clientX - box.left) / box.width) * width * unit,
      (-(event.clientY - box.top) / box.height) * height * unit,
      viewer.x.end - viewer.x.start,
    );
  });
  return overview;
}

function switch_of(text, on, action, ...before) {
  const box = made("input", { type: "checkbox", checked: on });
  box.addEventListener("change", () => action(box.checked));
  return made("label", { class: "switch" }, box, ...before, text);
}

function slider_of(text, value, action) {
  const slider = made("input", { type: "range", min: "0", max: "100", value: String(100 * value), "aria-label": text });
  slider.addEventListener("input", () => action(slider.value / 100));
  return made("label", { class: "slider" }, text, slider);
}

function section_of(viewer, item, i) {
  const about = viewer.about[i];
  const section = made("section", {}, made("h2", {}, about.name), overview_of(viewer, item, i));
  const facts = [
    `${numbers.format(about.shape[1])} × ${numbers.format(about.shape[0])} px`,
    about.mpp ? `${Number(about.mpp.toPrecision(4))}\u00a0µm/px` : "µm/px unknown",
    about.model,
    about.complete ? "" : "not finished: labels may show only close up",
  ];
  section.append(made("p", { class: "soft" }, facts.filter(Boolean).join(" · ")));
  if (about.warning) section.append(made("p", { class: "warn" }, about.warning));
  if (about.classes.length) {
    const labels = viewer.model("labels", item);
    section.append(slider_of("opacity of labels", labels.alpha, (alpha) => { labels.alpha = alpha; }));
    for (const one of about.classes) {
      const swatch = made("span", { class: "swatch" });
      swatch.style.background = one.color;
      section.append(switch_of(one.name, true, (on) => {
        viewer.shown.get(item)[on ? "add" : "delete"](one.label);
        viewer.show_classes(item);
      }, swatch));
    }
  }
  if (about.objects !== null) {
    section.append(switch_of("outlines of objects", true, (on) => {
      viewer.outlined[on ? "add" : "delete"](item);
      viewer.outline(item, i);
    }));
    section.append(made("p", { class: "soft", id: `said-${i}` }, counted(about.objects)));
  }
  if (about.layers.includes("tissue")) {
    section.append(switch_of("outline of the tissue", false, (on) => { viewer.model("tissue", item).visible = on; }));
  }
  if (about.layers.includes("region")) {
    section.append(switch_of("outline of the region", true, (on) => { viewer.model("region", item).visible = on; }));
  }
  if (about.layers.includes("heat")) {
    const heat = viewer.model("heat", item);
    const which = made("select", { "aria-label": "class" });
    for (const one of about.classes) which.append(made("option", { value: String(one.label) }, one.name));
    which.addEventListener("change", () => viewer.renew("heat", item, `?shown=${which.value}`));
    heat.tile_source.url += `?shown=${about.classes[0].label}`;
    section.append(made("div", { class: "switch" }, switch_of("probability of", false, (on) => { heat.visible = on; }), which));
    section.append(made("p", { class: "soft ramp" }, "0", made("span", {}), "1"));
    section.append(slider_of("its opacity", heat.alpha, (alpha) => { heat.alpha = alpha; }));
  }
  return section;
}

async function start() {
  asked("catalog").then((entries) => { by_id("all").hidden = entries.length < 2; }).catch(() => {});
  try {
    const about = await Promise.all(items.map((item) => asked(`about/${item}`)));
    const names = about.map((one) => one.name);
    by_id("name").textContent = names.length > 1 ? `${names.length} side by side` : names[0];
    if (names.length > 1) by_id("names").append(...names.map((name) => made("p", { title: name }, name)));
    document.title = `${names.join(" | ")} · wsipipe view`;
    const item = await asked(`plots?items=${items}`);
    manager = await Bokeh.embed.embed_item(item, "plots");
    const viewer = new Viewer(about, manager.roots[0].model.document);
    window.viewer = viewer; // for tests, and for those who look under the bonnet
    panel_of(viewer);
    items.forEach((number) => viewer.show_classes(number));
    by_id("plots").addEventListener("mousemove", (event) => viewer.pointed(event));
    window.addEventListener("hashchange", (event) => viewer.from_link(event.newURL)); // the place may be another already
    if (!viewer.from_link(location.href)) viewer.whole();
    viewer.settled();
    document.body.dataset.ready = "yes";
  } catch (error) {
    by_id("name").textContent = error.message;
    document.body.dataset.ready = "failed";
  }
}

start();
