"use strict";
// Draws a sample when it is opened, and filters and sorts the list. Every text goes in as text, never as HTML; Plotly,
// which would read HTML in its labels, is given numbers alone.
(() => {
  const CIVIDIS = ["#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78", "#948e77", "#aea371", "#c8b866",
    "#e5cf52", "#fee838"]; // perceptually even, the same for the colour-blind, and rising in grey
  const NARROW = matchMedia("(max-width: 46rem)"); // as in page.css: sub-actions stand below the heatmap
  const ROW = NARROW.matches ? 26 : 34; // pixels of a sub-action; two lines of its text
  const AXIS = 24; // pixels of the time axis
  const SIDE = 12; // pixels left and right of the frames, which the first and the last time need; as in page.css
  const PICTURE = 88; // pixels of the longer side of a picture under the pointer
  const CLOSEST = 4; // frames, which is as close as one can look
  const RATE = 10; // frames a second to play, where it is not known

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
    }
    Object.assign(record, {at: 0, from: 0, span: record.frames, inHand: record.options[0], views: []});
    if (record.pictures) { // an address that is short, for it is set at every move of the pointer
      const image = new Blob([bytesOf(record.pictures.image)], {type: "image/webp"});
      record.pictures.address = URL.createObjectURL(image);
    }
    return record;
  }

  const secondOf = (record, t) => record.times ? record.times[t] : t / RATE;
  const timeOf = (record, t) => record.times ? `${record.times[t].toFixed(2)} s` : `frame ${t}`;
  function spanText(record, [first, last, , , , start, end]) {
    if (first < 0) return "skipped";
    if (!record.times) return first < last ? `${first}–${last}` : `${first}`;
    const digits = secondOf(record, record.frames) - secondOf(record, 0) < 2 ? 2 : 1;
    return `${start.toFixed(digits)}–${end.toFixed(digits)} s`;
  }

  const phaseAt = (option, t) => option.phases.findIndex(([first, last]) => first <= t && t <= last);
  const phaseText = (option, m) => m < 0 ? "between phases" : `${m + 1}. ${option.texts[m]}`;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // The frame in hand and the part of time that is looked at are those of all pictures of a sample

  function update(record, changes) { // of: at, peek (a frame that is only pointed at), from and span, inHand, playing
    Object.assign(record, changes);
    const {frames} = record;
    record.at = clamp(record.at, 0, frames - 1);
    record.span = clamp(record.span, Math.min(CLOSEST, frames), frames);
    if (changes.at !== undefined && record.at < record.from) record.from = record.at - record.span + 1;
    if (changes.at !== undefined && record.at >= record.from + record.span) record.from = record.at;
    record.from = clamp(record.from, 0, frames - record.span);
    record.now = record.playing ? record.at : record.peek ?? record.at;
    for (const name of ["now", "from", "span", "frames"]) record.body.style.setProperty(`--${name}`, record[name]);
    record.body.classList.toggle("away", record.now < record.from || record.now >= record.from + record.span);
    record.views.forEach((view) => view());
  }

  function zoom(record, factor) { // about the frame in hand
    const span = Math.round(record.span * factor);
    update(record, {span, from: Math.round(record.at - span / 2)});
  }

  function play(record) {
    let shown = record.at < record.frames - 1 ? record.at : 0, begun = null;
    update(record, {playing: !record.playing, at: record.playing ? record.at : shown});
    requestAnimationFrame(function step(now) {
      if (!record.playing) return;
      if (begun === null || shown !== record.at) begun = now - 1000 * secondOf(record, record.at); // moved by hand
      shown = record.at;
      while (shown < record.frames - 1 && secondOf(record, shown + 1) <= (now - begun) / 1000) shown++;
      if (shown !== record.at) update(record, {at: shown, playing: shown < record.frames - 1});
      requestAnimationFrame(step);
    });
  }

  function frameUnder(record, element, event) { // of an element that is as wide as the frames that are seen
    const box = element.getBoundingClientRect();
    return record.from + Math.floor(record.span * (event.clientX - box.left) / box.width);
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
    const seconds = record.times && record.frames > 1
      ? `, ${(record.times[record.frames] - record.times[0]).toFixed(1)} s` : "";
    about.append(make("span", "", `${record.frames} frame${record.frames === 1 ? "" : "s"}${seconds}`));
    const link = make("a", "link", "link to this sample");
    link.href = `#${sample.id}`;
    about.append(link, scaleOf(record));
    const sureness = make("div", "about");
    sureness.append(...surenessOf(record).map((text) => make("span", "", text)));
    body.append(about, sureness, scoresOf(record, answer), playerOf(record));
    for (const option of record.options) body.append(panelOf(record, option, answer));
    record.body = body;
    update(record, {});
    body.forget = () => {
      record.playing = false;
      if (record.pictures) URL.revokeObjectURL(record.pictures.address);
    };
  }

  function surenessOf(record) { // in words
    const said = [], [confidence, p, z] = record.sure || [], [low, high, right, n] = record.such || [];
    if (confidence) said.push(`confidence ${confidence}${labels.calibrated ? "" : ", not calibrated"}`,
      `order against chance orders: z ${z.toFixed(2)}, p ${number(p)}`);
    if (n) said.push(`margin ${number(record.margin)}: of the ${n} samples with margins from ${number(low)} to ` +
      `${number(high)}, ${right} are right`);
    return said;
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
    const first = option === record.options[0] && !record.none;
    if (record.none && option === record.options[0]) tags.append(make("span", "tag", "best, but none of these"));
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

  function playerOf(record) {
    const player = make("div", "player aligned"), deck = make("div", "deck"), readout = make("div", "readout");
    const when = make("div", "when"), doing = make("bdi", "doing"), buttons = make("div", "buttons");
    const stage = make("span", "stage picture"), time = make("div"), scrub = make("div", "scrub");
    const range = make("input"), last = record.frames - 1;
    const button = (name, text, then) => {
      const made = make("button", name, text);
      made.type = "button";
      made.addEventListener("click", then);
      buttons.append(made);
      return made;
    };
    const toggle = button("play", "", () => play(record));
    const wider = button("", "−", () => zoom(record, 2)), closer = button("", "+", () => zoom(record, 0.5));
    closer.setAttribute("aria-label", "look closer");
    wider.setAttribute("aria-label", "see more time");
    Object.assign(range, {type: "range", min: 0, max: last, step: 1});
    range.setAttribute("aria-label", "frame");
    range.disabled = toggle.disabled = last === 0;
    range.addEventListener("input", () => update(record, {at: +range.value}));
    range.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      play(record);
    });
    scrub.append(range);
    readout.append(when, doing, buttons);
    if (record.pictures) deck.append(stage);
    if (record.pictures) time.append(stripOf(record));
    deck.append(readout);
    time.append(scrub);
    player.append(deck, time);
    record.views.push(() => {
      const t = record.now, option = record.inHand;
      when.replaceChildren(make("strong", "", timeOf(record, t)), record.times ? ` frame ${t}` : "",
        isolated("of", option.name));
      doing.textContent = doing.title = option.phases ? phaseText(option, phaseAt(option, t)) : "";
      range.value = t;
      range.setAttribute("aria-valuetext", `${timeOf(record, t)}, ${doing.textContent}`);
      toggle.textContent = record.playing ? "pause" : "play";
      toggle.classList.toggle("playing", Boolean(record.playing));
      closer.disabled = record.span <= CLOSEST;
      wider.disabled = record.span >= record.frames;
      if (record.pictures) show(stage, record, nearestPicture(record, t), stage.clientWidth, stage.clientHeight);
    });
    new ResizeObserver(() => update(record, {})).observe(stage); // which has no size before it is on the page
    return player;
  }

  function stripOf(record) {
    const strip = make("div", "strip seen"), pictures = make("div", "pictures");
    strip.append(pictures, make("span", "cursor"));
    strip.setAttribute("role", "img");
    strip.setAttribute("aria-label",
      `frames of the clip from ${timeOf(record, 0)} to ${timeOf(record, record.frames - 1)}`);
    let drawn = "";
    const fill = () => { // as many pictures as fit, each above the frames it stands for
      const width = strip.clientWidth, height = strip.clientHeight, {from, span} = record;
      if (!width || drawn === `${width} ${from} ${span}`) return;
      drawn = `${width} ${from} ${span}`;
      const aspect = record.pictures.width / record.pictures.height;
      const count = clamp(Math.round(width / (height * aspect)), 1, span);
      pictures.replaceChildren(...Array.from({length: count}, (_, i) => {
        const picture = make("span", "picture");
        const t = from + Math.floor((i + 0.5) * span / count);
        show(picture, record, nearestPicture(record, t), width / count, height);
        return picture;
      }));
    };
    new ResizeObserver(fill).observe(strip);
    record.views.push(fill);
    strip.addEventListener("pointermove", (event) => {
      const t = frameUnder(record, strip, event);
      update(record, event.buttons ? {at: t} : {peek: t});
    });
    strip.addEventListener("pointerdown", (event) => update(record, {at: frameUnder(record, strip, event)}));
    strip.addEventListener("pointerleave", () => update(record, {peek: null}));
    return strip;
  }

  function timelineOf(record, option, rows) { // an option's phases in time, as buttons that lead to them
    const line = make("div", "timeline seen"), bars = [];
    line.setAttribute("role", "toolbar");
    line.setAttribute("aria-label", `phases of ${option.name}`);
    option.phases.forEach((phase, m) => {
      const [first, last, found, inside, outside] = phase;
      if (first < 0) return;
      const bar = make("button", found ? "bar" : "bar lost"), text = make("bdi", "", option.texts[m]);
      Object.assign(bar, {type: "button", tabIndex: bars.length ? -1 : 0});
      bar.append(make("strong", "", `${m + 1}`), " ", ...found ? [] : [make("i", "", "not found: ")], text);
      bar.title = `${phaseText(option, m)}: ${spanText(record, phase)}${found ? "" : ", not found"}; mean similarity ` +
        `${number(inside)}${outside === null ? "" : `, elsewhere ${number(outside)}`}`;
      bar.style.setProperty("--first", first);
      bar.style.setProperty("--count", last - first + 1);
      bar.addEventListener("click", () => update(record, {at: first, inHand: option}));
      bars.push(bar);
      record.views.push(() => {
        const isNow = first <= record.now && record.now <= last;
        bar.setAttribute("aria-current", isNow);
        rows.children[m].classList.toggle("here", isNow);
      });
    });
    line.addEventListener("keydown", ({key}) => {
      const to = {ArrowLeft: -1, ArrowRight: 1}[key], next = bars[bars.indexOf(document.activeElement) + to];
      if (!next) return;
      bars.forEach((bar) => { bar.tabIndex = bar === next ? 0 : -1; });
      next.focus();
    });
    line.append(...bars, make("span", "cursor"));
    return line;
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
      const phase = option.phases && option.phases[m];
      if (phase) row.append(make("span", "when", spanText(record, phase) + (phase[2] || phase[0] < 0 ? "" : "\nnot found")));
      rows.append(row);
    });
    if (option.phases) grid.append(make("span", "caption", "phases"), timelineOf(record, option, rows));
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
    const path = option.phases
      ? `The best path: ${option.texts.map((text, m) => `${text}, ${spanText(record, option.phases[m])}`).join("; ")}`
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
    const first = record.from, last = first + record.span - 1;
    const begin = record.times ? record.times[first] : first, end = record.times ? record.times[last] : last;
    if (!(end > begin)) return [[first], [record.times ? `${+begin.toFixed(2)} s` : `${begin}`]];
    let step = 10 ** Math.floor(Math.log10((end - begin) / 3));
    step *= [1, 2, 5].find((factor) => (end - begin) / (step * factor) <= 8) || 10;
    if (!record.times) step = Math.max(1, step);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const at = [], texts = [];
    for (let i = Math.ceil(begin / step - 1e-9); i * step <= end + 1e-9; i++) {
      at.push(record.times ? placeOf(record.times, i * step) : i * step);
      texts.push(record.times ? `${(i * step).toFixed(digits)} s` : `${i * step}`);
    }
    return [at, texts];
  }

  function placeOf(times, second) { // the frame, with its fraction, at a second
    let t = 1;
    while (t < times.length - 2 && times[t] < second) t++;
    const gap = times[t] - times[t - 1];
    return gap > 0 ? t - 1 + Math.min(1, (second - times[t - 1]) / gap) : t;
  }

  function drawHeat(record, option, heat, plot, rows) {
    const T = record.frames, M = option.texts.length;
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
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
    const seen = () => {
      const [tickvals, ticktext] = ticksOf(record);
      return {range: [record.from - 0.5, record.from + record.span - 0.5], tickvals, ticktext};
    };
    const layout = () => ({
      margin: {l: SIDE, r: SIDE, t: 0, b: AXIS}, height: ROW * M + AXIS, paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "#56657c", dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false, showlegend: false,
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: color("--quiet")}, hovermode: false,
      xaxis: {...seen(), ticks: "outside", ticklen: 4, tickcolor: color("--line"),
        showgrid: false, zeroline: false, tickangle: 0},
      yaxis: {range: [M - 0.5, -0.5], fixedrange: true, showticklabels: false, ticks: "", showgrid: false,
        zeroline: false},
    });
    loadPlotly();
    Plotly.newPlot(plot, traces, layout(), {displayModeBar: false, responsive: true, showTips: false,
      doubleClick: false});
    plot.recolor = () => Plotly.relayout(plot, layout());
    const isSeen = (low, high) => low === record.from - 0.5 && high === record.from + record.span - 0.5;
    plot.on("plotly_relayout", () => {
      const [low, high] = plot.layout.xaxis.range;
      if (isSeen(low, high)) return;
      const from = Math.round(low + 0.5);
      update(record, {from, span: Math.round(high + 0.5) - from});
    });
    plot.on("plotly_doubleclick", () => update(record, {from: 0, span: T}));
    record.views.push(() => {
      if (!plot.layout || isSeen(...plot.layout.xaxis.range)) return;
      Plotly.relayout(plot, Object.fromEntries(Object.entries(seen()).map(([key, value]) => [`xaxis.${key}`, value])));
    });

    const over = make("div", "over seen"), cell = make("span", "cell");
    over.style.height = `${ROW * M}px`;
    cell.hidden = true;
    over.append(make("span", "cursor"), cell);
    heat.append(over);
    let at = null;

    function point(t, m, x, y, changes, aloud) {
      at = [t, m];
      update(record, {...changes, inHand: option});
      const box = over.getBoundingClientRect();
      cell.hidden = false;
      cell.style.setProperty("--t", t);
      cell.style.top = `${(m + 0.5) * ROW}px`;
      fillTip(record, option, t, m);
      placeTip(x ?? box.left + box.width * (t + 0.5 - record.from) / record.span, y ?? box.top + (m + 0.5) * ROW,
        heat.closest(".body").querySelector(".player").getBoundingClientRect().bottom);
      if (aloud) byId("live").textContent =
        `${timeOf(record, t)}, ${m + 1}. ${option.texts[m]}, similarity ${number(option.similarity[m][t])}`;
    }

    function leave() {
      at = null;
      cell.hidden = tip.hidden = true;
      update(record, {peek: null});
    }

    function pointed(event) {
      const m = Math.floor((event.clientY - over.getBoundingClientRect().top) / ROW);
      const t = frameUnder(record, over, event);
      if (t < record.from || t >= record.from + record.span || m < 0 || m >= M) return leave();
      point(t, m, event.clientX, event.clientY, event.type === "pointerdown" ? {at: t, peek: t} : {peek: t});
    }

    const walk = (t, m) => point(t, m, undefined, undefined, {at: t, peek: null}, true);
    heat.addEventListener("pointermove", pointed);
    heat.addEventListener("pointerdown", pointed); // a finger does not move before it touches
    heat.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
    heat.addEventListener("blur", leave);
    heat.addEventListener("focus", () => {
      if (heat.matches(":focus-visible")) walk(record.at, at ? at[1] : 0);
    });
    heat.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") return leave();
      const [t, m] = at || [record.at, 0], far = event.shiftKey ? 10 : 1;
      const to = {ArrowLeft: [t - far, m], ArrowRight: [t + far, m], ArrowUp: [t, m - 1], ArrowDown: [t, m + 1],
        Home: [0, m], End: [T - 1, m]}[event.key];
      if (!to) return;
      event.preventDefault();
      walk(clamp(to[0], 0, T - 1), clamp(to[1], 0, M - 1));
    });
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.querySelectorAll(".plot").forEach((plot) => plot.recolor && plot.recolor()));

  function fillTip(record, option, t, m) {
    const said = make("div"), place = record.pictures && nearestPicture(record, t);
    said.append(make("div", "when", record.times ? `${timeOf(record, t)} · frame ${t}` : timeOf(record, t)),
      isolated("text", phaseText(option, m)), make("div", "", `similarity ${number(option.similarity[m][t])}`));
    tip.replaceChildren(said);
    tip.hidden = false;
    if (!record.pictures) return;
    const picture = make("div", "picture"), {width, height, kept} = record.pictures;
    const scale = PICTURE / Math.max(width, height);
    picture.style.width = `${width * scale}px`;
    picture.style.height = `${height * scale}px`;
    show(picture, record, place, width * scale, height * scale);
    tip.prepend(picture);
    if (kept[place] !== t) said.append(make("div", "quiet", `pictured: frame ${kept[place]}`));
  }

  function placeTip(x, y, least) { // beside the pointer, where there is room, and below what is not to be covered
    const {offsetWidth: w, offsetHeight: h} = tip, gap = 18;
    const left = x + gap + w < innerWidth ? x + gap : Math.max(4, x - gap - w);
    const top = clamp(y - h - gap, Math.max(4, least + 4), Math.max(innerHeight - h - 4, least + 4));
    tip.style.transform = `translate(${Math.min(left, innerWidth - w - 4)}px, ${top}px)`;
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

  const toolbar = document.querySelector(".toolbar"); // what sticks below it needs its height
  new ResizeObserver(() => list.style.setProperty("--toolbar", `${toolbar.offsetHeight}px`)).observe(toolbar);
  const find = byId("find"), domain = byId("domain"), sort = byId("sort");
  const confidence = byId("confidence"), rejected = byId("rejected"); // which not every run has
  const kinds = {all: () => true, right: (sample) => sample.dataset.right === "true",
    wrong: (sample) => sample.dataset.right === "false", differ: (sample) => sample.dataset.differ === "true"};

  function filter() {
    const kind = kinds[document.querySelector("input[name=show]:checked")?.value || "all"];
    const [least, most] = (confidence?.value || "0 2").split(" ").map(Number);
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const sample of samples) {
      const text = words[sample.dataset.number];
      const fits = kind(sample) && (domain.value === "" || sample.dataset.domain === domain.value)
        && least <= sample.dataset.confidence && sample.dataset.confidence < most
        && (!rejected?.checked || sample.dataset.none === "true") && wanted.every((word) => text.includes(word));
      sample.hidden = !fits;
      count += fits;
    }
    byId("count").textContent = `${count} of ${samples.length}`;
    byId("none").hidden = count > 0;
  }

  function arrange() {
    const [key, sign] = {number: ["number", 1], narrow: ["margin", 1], wide: ["margin", -1],
      unsure: ["confidence", 1], sure: ["confidence", -1]}[sort.value];
    const of = ({dataset}) => sign * (dataset[key] === "" ? Infinity : dataset[key]);
    list.append(...samples.sort((a, b) => of(a) - of(b) || a.dataset.number - b.dataset.number));
  }

  function clear() {
    const all = document.querySelector("input[name=show][value=all]");
    if (all) all.checked = true;
    find.value = domain.value = "";
    if (confidence) confidence.selectedIndex = 0;
    if (rejected) rejected.checked = false;
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
  for (const input of [domain, confidence, rejected]) input?.addEventListener("change", filter);
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
