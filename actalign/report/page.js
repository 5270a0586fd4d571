"use strict";
// Draws a sample when it is opened, and filters and sorts the list. Every text goes in as text, never as HTML; Plotly,
// which would read HTML in its labels, is given numbers alone.
(() => {
  const CIVIDIS = ["#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78", "#948e77", "#aea371", "#c8b866",
    "#e5cf52", "#fee838"]; // perceptually even, the same for the colour-blind, and rising in grey
  const NARROW = matchMedia("(max-width: 46rem)"); // as in page.css: sub-actions stand below the heatmap
  const ROW = NARROW.matches ? 26 : 34; // pixels of a sub-action; two lines of its text
  const AXIS = 24; // pixels of the time axis
  const SIDE = 12; // pixels left and right of the frames, which the first and the last time need
  const LARGE = 1.75; // of a picture under the pointer

  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const labels = read("labels");
  const words = read("words");
  const list = byId("list");
  const samples = [...list.querySelectorAll(".sample")];
  const tip = byId("tip");

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function isolated(className, text) { // a text in its own writing direction, in full when pointed at
    const element = make("bdi", className, text);
    element.title = text;
    return element;
  }

  function number(value) { // three significant digits
    if (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1000)) return value ? value.toPrecision(3) : "0";
    return value.toExponential(2).replace("e+", "e");
  }

  function loadPlotly() { // reading its source takes a second, which the list need not wait for
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = byId("plotly").textContent;
    document.head.append(script);
  }

  function scoreText(record, score) { // as many decimals for all options as the best one needs
    const best = Math.max(...record.options.map((option) => Math.abs(option.score)));
    if (best && best < 0.001) return score.toExponential(2).replace("e+", "e");
    return score.toFixed(best ? Math.max(3, 2 - Math.floor(Math.log10(best))) : 3);
  }

  // One sample

  const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

  function decode(record) {
    const view = new DataView(bytesOf(record.similarity).buffer);
    const step = (record.high - record.low) / labels.levels;
    let offset = 0;
    for (const option of record.options) {
      option.similarity = option.texts.map(() => {
        const row = new Array(record.frames);
        for (let t = 0; t < record.frames; t++, offset += 2) row[t] = record.low + step * view.getUint16(offset, true);
        return row;
      });
      option.spans = option.path && spansOf(option.path, option.texts.length);
    }
    if (record.pictures) { // an address that is short, for it is set at every move of the pointer
      const image = new Blob([bytesOf(record.pictures.image)], {type: "image/webp"});
      record.pictures.address = URL.createObjectURL(image);
    }
    return record;
  }

  function spansOf(cells, count) { // first and last frame of every sub-action on the path
    const spans = Array.from({length: count}, () => [Infinity, -Infinity]);
    for (const [t, m] of cells) spans[m] = [Math.min(spans[m][0], t), Math.max(spans[m][1], t)];
    return spans;
  }

  const timeOf = (record, t) => record.times ? `${record.times[t].toFixed(2)} s` : `frame ${t}`;
  function spanText(record, [from, to]) {
    if (from > to) return "not on the path";
    if (!record.times) return `${from}–${to}`;
    const digits = record.times[record.frames - 1] < 2 ? 2 : 1;
    return `${record.times[from].toFixed(digits)}–${record.times[to].toFixed(digits)} s`;
  }

  function nearestPicture(record, t) { // where in the sprite the picture nearest to frame t is
    const {kept} = record.pictures;
    let best = 0;
    for (let i = 1; i < kept.length; i++) if (Math.abs(kept[i] - t) < Math.abs(kept[best] - t)) best = i;
    return best;
  }

  function show(element, record, place, width, height) { // one picture of the sprite, filling width x height
    const {address, columns, kept} = record.pictures;
    const rows = Math.ceil(kept.length / columns);
    const scale = Math.max(width / record.pictures.width, height / record.pictures.height);
    const w = record.pictures.width * scale, h = record.pictures.height * scale;
    element.style.backgroundImage = `url("${address}")`;
    element.style.backgroundSize = `${w * columns}px ${h * rows}px`;
    element.style.backgroundPosition =
      `${-w * (place % columns) - (w - width) / 2}px ${-h * Math.floor(place / columns) - (h - height) / 2}px`;
  }

  function draw(sample) {
    const body = sample.querySelector(".body");
    let record;
    try {
      record = decode(read(`record-${sample.dataset.number}`));
    } catch (error) {
      body.append(make("p", "error", "This sample cannot be read; the file may be cut short."));
      return;
    }
    const answer = record.options.find((option) => option.answer);
    const about = make("div", "about");
    if (record.question) body.append(isolated("question", record.question));
    const seconds = record.times && record.times.length > 1 ? `, ${record.times[record.frames - 1].toFixed(1)} s` : "";
    about.append(make("span", "", `${record.frames} frame${record.frames === 1 ? "" : "s"}${seconds}`));
    const link = make("a", "link", "link to this sample");
    link.href = `#${sample.id}`;
    about.append(link, scaleOf(record));
    body.append(about, scoresOf(record, answer));

    if (record.pictures) {
      body.append(stripOf(record));
      body.forget = () => URL.revokeObjectURL(record.pictures.address);
    }
    for (const option of record.options) body.append(panelOf(record, option, answer));
  }

  function scaleOf(record) {
    const scale = make("span", "scale");
    const ramp = make("span", "ramp");
    ramp.style.background = `linear-gradient(to right, ${CIVIDIS.join(", ")})`;
    ramp.setAttribute("role", "img");
    ramp.setAttribute("aria-label", "colour scale, from dark blue for low to yellow for high");
    scale.append(make("span", "", `similarity ${number(record.low)}`), ramp, make("span", "", number(record.high)));
    return scale;
  }

  function tagsOf(record, option, answer) {
    const tags = make("span", "tags");
    const first = option === record.options[0];
    if (first && answer) tags.append(make("span", option.answer ? "tag right" : "tag wrong",
      option.answer ? "✓ predicted, right" : "✗ predicted, wrong"));
    else if (first) tags.append(make("span", "tag", "predicted"));
    if (option.answer && !first) tags.append(make("span", "tag right", "✓ the answer"));
    if (record.compared.includes(option.index)) tags.append(make("span", "tag", `${labels.other}’s choice`));
    return tags;
  }

  function scoresOf(record, answer) {
    const scores = make("ol", "scores");
    const most = Math.max(...record.options.map((option) => option.score), 1e-300);
    record.options.forEach((option, place) => {
      const row = make("li", option.answer ? "answer" : answer && place === 0 ? "missed" : "");
      const track = make("span", "track"), fill = make("span", "fill");
      fill.style.width = `${100 * Math.max(0, option.score) / most}%`;
      track.append(fill);
      row.append(make("span", "rank", `${place + 1}`), isolated("name", option.name), track,
        make("span", "score", scoreText(record, option.score)), tagsOf(record, option, answer));
      scores.append(row);
    });
    return scores;
  }

  function stripOf(record) {
    const grid = make("div", "aligned"), strip = make("div", "strip");
    grid.append(strip);
    strip.setAttribute("role", "img");
    strip.setAttribute("aria-label",
      `frames of the clip from ${timeOf(record, 0)} to ${timeOf(record, record.frames - 1)}`);
    const cursor = make("span", "cursor");
    let shown = 0;
    new ResizeObserver(() => { // as many pictures as fit, each above the frames it stands for
      const width = strip.clientWidth, height = strip.clientHeight;
      if (!width || width === shown) return;
      shown = width;
      const aspect = record.pictures.width / record.pictures.height;
      const count = Math.max(1, Math.min(record.frames, Math.round(width / (height * aspect))));
      strip.replaceChildren(...Array.from({length: count}, (_, i) => {
        const picture = make("span", "picture");
        const t = Math.min(record.frames - 1, Math.floor((i + 0.5) * record.frames / count));
        show(picture, record, nearestPicture(record, t), width / count, height);
        picture.title = timeOf(record, t);
        return picture;
      }), cursor);
      cursor.style.height = "100%";
    }).observe(strip);
    cursor.hidden = true;
    (record.cursors ||= []).push((t) => {
      cursor.hidden = t === null;
      if (t !== null) cursor.style.left = `${100 * (t + 0.5) / record.frames}%`;
    });
    strip.style.margin = `0 ${SIDE}px 12px`;
    return grid;
  }

  function panelOf(record, option, answer) {
    const panel = make("section", "option"), title = make("h3"), grid = make("div", "aligned");
    title.append(isolated("name", option.name), make("span", "score", scoreText(record, option.score)),
      tagsOf(record, option, answer));
    const rows = make("ol", "rows");
    option.texts.forEach((text, m) => {
      const row = make("li");
      row.style.height = `${ROW}px`;
      row.append(isolated("text", text));
      if (option.spans) row.append(make("span", "when", spanText(record, option.spans[m])));
      rows.append(row);
    });
    const heat = make("div", "heat"), plot = make("div", "plot");
    plot.style.height = `${ROW * option.texts.length + AXIS}px`;
    heat.append(plot);
    heat.tabIndex = 0;
    heat.setAttribute("role", "application");
    heat.setAttribute("aria-roledescription", "heatmap");
    heat.setAttribute("aria-label", altOf(record, option));
    grid.append(rows, heat);
    panel.append(title, grid);
    whenSeen(plot, () => drawHeat(record, option, heat, plot, rows));
    return panel;
  }

  function altOf(record, option) {
    const size = `Similarity of ${record.frames} frames with ${option.texts.length} sub-actions of ${option.name}`;
    const path = option.spans
      ? `The best path: ${option.texts.map((text, m) => `${text}, ${spanText(record, option.spans[m])}`).join("; ")}`
      : "No path";
    return `${size}. ${path}. Arrow keys move from cell to cell.`;
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      entry.target.whenSeen();
    }
  }, {rootMargin: "400px"});

  function whenSeen(element, then) {
    element.whenSeen = then;
    seen.observe(element);
  }

  function ticksOf(record) { // [positions, texts]: round seconds where there are timestamps, else frames
    const last = record.frames - 1, end = record.times ? record.times[last] : last;
    if (!(end > 0)) return [[0], [record.times ? "0 s" : "0"]];
    let step = 10 ** Math.floor(Math.log10(end / 3));
    step *= [1, 2, 5].find((factor) => end / (step * factor) <= 8) || 10;
    if (!record.times) step = Math.max(1, step);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const at = [], texts = [];
    for (let i = 0; i * step <= end + 1e-9; i++) {
      at.push(record.times ? placeOf(record.times, i * step) : i * step);
      texts.push(record.times ? `${(i * step).toFixed(digits)} s` : `${i * step}`);
    }
    return [at, texts];
  }

  function placeOf(times, second) { // the frame, with its fraction, at a second
    let t = 1;
    while (t < times.length - 1 && times[t] < second) t++;
    const gap = times[t] - times[t - 1];
    return gap > 0 ? t - 1 + Math.min(1, (second - times[t - 1]) / gap) : t;
  }

  function drawHeat(record, option, heat, plot, rows) {
    const T = record.frames, M = option.texts.length;
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const [tickvals, ticktext] = ticksOf(record);
    const traces = [{
      type: "heatmap", z: option.similarity,
      zmin: record.low, zmax: record.high > record.low ? record.high : record.low + 1,
      colorscale: CIVIDIS.map((color, i) => [i / 10, color]), showscale: false, hoverinfo: "skip", ygap: 1,
    }];
    if (option.path) {
      const x = option.path.map(([t]) => t), y = option.path.map(([, m]) => m);
      const mode = x.length > 1 ? "lines" : "markers"; // a single cell has no length
      const path = (color, width) => ({type: "scatter", mode, x, y, line: {color, width},
        marker: {color, size: 2 * width}, hoverinfo: "skip", cliponaxis: false});
      traces.push(path("#000", 5.5), path("#fff", 2.5));
    }
    const layout = () => ({
      margin: {l: SIDE, r: SIDE, t: 0, b: AXIS}, height: ROW * M + AXIS, paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "#56657c", dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false, showlegend: false,
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: color("--quiet")}, hovermode: false,
      xaxis: {range: [-0.5, T - 0.5], tickvals, ticktext, ticks: "outside", ticklen: 4, tickcolor: color("--line"),
        showgrid: false, zeroline: false, tickangle: 0},
      yaxis: {range: [M - 0.5, -0.5], fixedrange: true, showticklabels: false, ticks: "", showgrid: false,
        zeroline: false},
    });
    loadPlotly();
    Plotly.newPlot(plot, traces, layout(), {displayModeBar: false, responsive: true, showTips: false,
      doubleClick: "reset"});
    plot.recolor = () => Plotly.relayout(plot, layout());

    const cursor = make("span", "cursor"), cell = make("span", "cell");
    cursor.style.height = `${ROW * M}px`;
    cursor.hidden = cell.hidden = true;
    heat.append(cursor, cell);
    const range = () => plot.layout.xaxis.range;
    const share = (t) => (t - range()[0]) / (range()[1] - range()[0]);
    const place = (share) => `calc(${SIDE * (1 - 2 * share)}px + ${100 * share}%)`;
    (record.cursors ||= []).push((t) => {
      cursor.hidden = t === null || share(t) < 0 || share(t) > 1;
      if (!cursor.hidden) cursor.style.left = place(share(t));
    });
    let at = null;

    function point(t, m, x, y, aloud) {
      at = [t, m];
      record.cursors.forEach((move) => move(t));
      [...rows.children].forEach((row, i) => row.classList.toggle("here", i === m));
      const box = heat.getBoundingClientRect();
      const left = Math.max(0, share(t - 0.5)), right = Math.min(1, share(t + 0.5));
      cell.hidden = right <= left;
      Object.assign(cell.style, {left: place((left + right) / 2), top: `${(m + 0.5) * ROW}px`});
      fillTip(record, option, t, m);
      placeTip(x ?? box.left + SIDE + (box.width - 2 * SIDE) * (left + right) / 2, y ?? box.top + (m + 0.5) * ROW);
      if (aloud) byId("live").textContent =
        `${timeOf(record, t)}, ${m + 1}. ${option.texts[m]}, similarity ${number(option.similarity[m][t])}`;
    }

    function leave() {
      at = null;
      record.cursors.forEach((move) => move(null));
      cell.hidden = tip.hidden = true;
      [...rows.children].forEach((row) => row.classList.remove("here"));
    }

    function pointed(event) {
      const box = plot.getBoundingClientRect();
      const across = (event.clientX - box.left - SIDE) / (box.width - 2 * SIDE), down = (event.clientY - box.top) / ROW;
      if (across < 0 || across > 1 || down < 0 || down >= M) return leave();
      const t = Math.round(range()[0] + across * (range()[1] - range()[0]));
      point(Math.min(T - 1, Math.max(0, t)), Math.floor(down), event.clientX, event.clientY, false);
    }

    heat.addEventListener("pointermove", pointed);
    heat.addEventListener("pointerdown", pointed); // a finger does not move before it touches
    heat.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
    heat.addEventListener("blur", leave);
    heat.addEventListener("focus", () => {
      if (heat.matches(":focus-visible")) point(...(at || [0, 0]), undefined, undefined, true);
    });
    heat.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") return leave();
      const [t, m] = at || [0, 0], far = event.shiftKey ? 10 : 1;
      const to = {ArrowLeft: [t - far, m], ArrowRight: [t + far, m], ArrowUp: [t, m - 1], ArrowDown: [t, m + 1],
        Home: [0, m], End: [T - 1, m]}[event.key];
      if (!to) return;
      event.preventDefault();
      point(Math.min(T - 1, Math.max(0, to[0])), Math.min(M - 1, Math.max(0, to[1])), undefined, undefined, true);
    });
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.querySelectorAll(".plot").forEach((plot) => plot.recolor && plot.recolor()));

  function fillTip(record, option, t, m) {
    const parts = [];
    if (record.pictures) {
      const picture = make("div", "picture"), place = nearestPicture(record, t);
      const most = Math.max(record.pictures.width, record.pictures.height), scale = Math.max(LARGE, 96 / most);
      const width = record.pictures.width * scale, height = record.pictures.height * scale;
      picture.style.width = `${width}px`;
      picture.style.height = `${height}px`;
      show(picture, record, place, width, height);
      parts.push(picture);
    }
    parts.push(make("div", "when", record.times ? `${timeOf(record, t)} · frame ${t}` : timeOf(record, t)));
    parts.push(isolated("text", `${m + 1}. ${option.texts[m]}`));
    parts.push(make("div", "", `similarity ${number(option.similarity[m][t])}`));
    if (record.pictures) {
      const kept = record.pictures.kept[nearestPicture(record, t)];
      if (kept !== t) parts.push(make("div", "quiet", `pictured: frame ${kept}`));
    }
    tip.replaceChildren(...parts);
    tip.hidden = false;
  }

  function placeTip(x, y) { // beside the pointer, where there is room
    const {offsetWidth: w, offsetHeight: h} = tip, gap = 18;
    const left = x + gap + w < innerWidth ? x + gap : Math.max(4, x - gap - w);
    const top = Math.min(Math.max(4, y - h - gap), innerHeight - h - 4);
    tip.style.transform = `translate(${Math.min(left, innerWidth - w - 4)}px, ${top < 4 ? 4 : top}px)`;
  }

  // Tables that do not fit can be scrolled, and only then are they a stop on the way of the keyboard

  const sized = new ResizeObserver((entries) => entries.forEach(({target}) => {
    const scrolls = target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight;
    target.toggleAttribute("tabindex", scrolls);
    if (scrolls) target.tabIndex = 0;
  }));
  document.querySelectorAll(".scroll").forEach((region) => sized.observe(region));

  // The list

  for (const sample of samples) {
    sample.addEventListener("toggle", () => {
      const body = sample.querySelector(".body");
      if (sample.open && !body.hasChildNodes()) draw(sample);
      else if (!sample.open) {
        body.querySelectorAll(".plot").forEach((plot) => plot.layout && Plotly.purge(plot));
        body.replaceChildren();
        if (body.forget) body.forget();
        tip.hidden = true;
      }
    });
  }

  const find = byId("find"), domain = byId("domain"), sort = byId("sort");
  const kinds = {all: () => true, right: (sample) => sample.dataset.right === "true",
    wrong: (sample) => sample.dataset.right === "false", differ: (sample) => sample.dataset.differ === "true"};

  function filter() {
    const kind = kinds[document.querySelector("input[name=show]:checked")?.value || "all"];
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const sample of samples) {
      const text = words[sample.dataset.number];
      const fits = kind(sample) && (domain.value === "" || sample.dataset.domain === domain.value)
        && wanted.every((word) => text.includes(word));
      sample.hidden = !fits;
      count += fits;
    }
    byId("count").textContent = `${count} of ${samples.length}`;
    byId("none").hidden = count > 0;
  }

  function arrange() {
    const margin = (sample) => sample.dataset.margin === "" ? Infinity : +sample.dataset.margin;
    const orders = {number: (a, b) => a.dataset.number - b.dataset.number,
      narrow: (a, b) => margin(a) - margin(b) || a.dataset.number - b.dataset.number,
      wide: (a, b) => margin(b) - margin(a) || a.dataset.number - b.dataset.number};
    list.append(...samples.sort(orders[sort.value]));
  }

  function clear() {
    const all = document.querySelector("input[name=show][value=all]");
    if (all) all.checked = true;
    find.value = domain.value = "";
    filter();
  }

  function follow() { // a link to a sample opens it, whatever is filtered
    const sample = samples.find((one) => one.id === location.hash.slice(1));
    if (!sample) return;
    if (sample.hidden) clear();
    sample.open = true;
    sample.scrollIntoView();
  }

  document.querySelectorAll("input[name=show]").forEach((input) => input.addEventListener("change", filter));
  find.addEventListener("input", filter);
  domain.addEventListener("change", filter);
  sort.addEventListener("change", arrange);
  byId("clear").addEventListener("click", clear);
  addEventListener("hashchange", follow);
  addEventListener("scroll", () => { // what was pointed at has moved away
    if (!document.activeElement.matches(".heat:focus-visible")) tip.hidden = true;
  }, {passive: true});
  filter(); // what a browser restored of the form
  arrange();
  if (location.hash) follow();
  else if (samples.length) samples[0].open = true;
  addEventListener("load", () => (window.requestIdleCallback || setTimeout)(loadPlotly));
})();
