/* A cloud on a canvas, with what hands and keys do to it. */
class Player {
  constructor(root, data, look, spaced) {
    Object.assign(this, { root, data, look, frame: 0, chosen: -1, hovered: -1, live: true });
    this.cloud = new Cloud(data);
    this.canvas = root.querySelector(".cloud");
    this.pen = this.canvas.getContext("2d");
    this.tip = root.querySelector(".tip");
    this.field = root.querySelector("input[type=number]");
    this.readout = root.querySelector(".readout");
    this.image = root.querySelector(".image");
    this.trailing = Array.from({ length: Math.min(300, this.cloud.count) }, (_, k) => Math.floor(k * this.cloud.count / Math.min(300, this.cloud.count)));
    this.listen(spaced);
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.resize();
    this.tell();
  }

  listen(spaced) {
    const { canvas } = this;
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = { x: event.offsetX, y: event.offsetY, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const { offsetX: x, offsetY: y } = event;
      if (from === null) return this.hover(x, y);
      if (!from.moved && Math.hypot(x - from.x, y - from.y) < 4) return undefined;
      if (this.cloud.axes === 3 && !event.shiftKey) this.cloud.turn((x - from.x) * 0.01, (y - from.y) * 0.01);
      else Object.assign(this.cloud, { x: this.cloud.x + x - from.x, y: this.cloud.y + y - from.y });
      from = { x, y, moved: true };
      canvas.classList.add("dragged");
      this.hovered = -1;
      this.tip.hidden = true;
      return this.draw();
    });
    const up = (event) => {
      if (from !== null && !from.moved && event.type === "pointerup") this.choose(this.cloud.pick(this.frame, event.offsetX, event.offsetY));
      from = null;
      canvas.classList.remove("dragged");
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => { this.hovered = -1; this.tip.hidden = true; this.tell(); this.draw(); });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      this.cloud.zoomBy(Math.exp(-Math.sign(event.deltaY) * 0.2), event.offsetX, event.offsetY);
      this.draw();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === " ") spaced();
      else if (!this.act({ "+": "in", "=": "in", "-": "out", "0": "reset", PageDown: "next", PageUp: "previous", Escape: "none" }[event.key]) && !this.arrow(event)) return;
      event.preventDefault();
    });
    this.root.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => this.act(button.dataset.do)));
    this.field.addEventListener("input", () => this.typed());
  }

  act(what) {
    const { cloud } = this, acts = {
      in: () => cloud.zoomBy(1.4), out: () => cloud.zoomBy(1 / 1.4), reset: () => cloud.reset(),
      left: () => cloud.turn(-0.2, 0), right: () => cloud.turn(0.2, 0),
      next: () => this.choose((this.chosen + 1) % cloud.count), previous: () => this.choose((this.chosen <= 0 ? cloud.count : this.chosen) - 1),
      none: () => this.choose(-1),
    };
    if (!(what in acts)) return false;
    acts[what]();
    this.draw();
    return true;
  }

  arrow(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return false;
    if (this.cloud.axes === 3 && !event.shiftKey) this.cloud.turn(way[0] * 0.1, way[1] * 0.1);
    else Object.assign(this.cloud, { x: this.cloud.x - way[0] * 24, y: this.cloud.y - way[1] * 24 });
    this.draw();
    return true;
  }

  typed() {
    const row = Number(this.field.value), { data } = this;
    if (this.field.value === "") return this.choose(-1);
    if (!Number.isInteger(row) || row < 1 || row > data.own) {
      this.choose(-1, true);
      this.readout.textContent = `Rows go from 1 to ${data.own}.`;
      return undefined;
    }
    const i = nearest(data.rows, row - 1);
    this.choose(i, true);
    if (data.rows[i] !== row - 1) this.readout.textContent = `Row ${row} is not in the player. The nearest that is: ${this.readout.textContent}`;
    return undefined;
  }

  choose(i, typing = false) {
    this.chosen = i;
    if (!typing) this.field.value = i < 0 ? "" : this.data.rows[i] + 1;
    this.tell();
    this.draw();
  }

  hover(x, y) {
    const found = this.cloud.pick(this.frame, x, y);
    this.tip.hidden = found < 0;
    if (found >= 0) {
      this.tip.textContent = `row ${this.data.rows[found] + 1}${this.cloud.className(found)}`;
      const [across, down] = this.cloud.place(this.cloud.positions, this.cloud.at(this.frame, found));
      const over = across > this.width * 0.6;
      Object.assign(this.tip.style, { left: over ? "" : `${across + 12}px`, right: over ? `${this.width - across + 12}px` : "", top: `${Math.max(0, down - 30)}px` });
    }
    if (found === this.hovered) return;
    this.hovered = found;
    this.tell();
    this.draw();
  }

  /* Says what is pointed at, or chosen. */
  tell() {
    const i = this.hovered >= 0 ? this.hovered : this.chosen;
    this.readout.setAttribute("aria-live", this.live ? "polite" : "off");
    const text = i < 0 ? "No row is chosen." : this.cloud.describe(this.frame, i);
    if (this.readout.textContent !== text) this.readout.textContent = text;
    this.image.hidden = i < 0 || !this.cloud.images;
    if (!this.image.hidden) this.drawImage(i);
  }

  drawImage(i) {
    const { height, width, colors } = this.data.images, size = height * width, each = colors ? 3 : 1;
    Object.assign(this.image, { height, width });
    this.image.setAttribute("aria-label", `Image of row ${this.data.rows[i] + 1} at the end`);
    const pen = this.image.getContext("2d"), drawn = pen.createImageData(width, height);
    for (let k = 0; k < size; k++) {
      const light = (channel) => this.cloud.images[(i * size + k) * each + (colors ? channel : 0)];
      drawn.data.set([light(0), light(1), light(2), 255], 4 * k);
    }
    pen.putImageData(drawn, 0, 0);
  }

  show(frame, live) {
    Object.assign(this, { frame, live });
    this.root.querySelector(".now").textContent = `Step ${this.data.steps[frame]}, time ${told(this.data.times[frame])}`;
    if (this.chosen >= 0 || this.hovered >= 0) this.tell();
    this.draw();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect(), sharp = window.devicePixelRatio || 1;
    if (!box.width) return;
    Object.assign(this, { width: box.width, height: box.height });
    Object.assign(this.canvas, { width: Math.round(box.width * sharp), height: Math.round(box.height * sharp) });
    this.pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    this.cloud.resize(box.width, box.height);
    this.draw();
  }

  draw() {
    const { pen, cloud, data, look, frame } = this, { area } = cloud, colors = data.colors;
    if (!this.width) return;
    const classes = look.classes ? data.classes : null, radius = Math.min(3.2, Math.max(1.3, 60 / Math.sqrt(cloud.count))) * Math.min(1, Math.sqrt(this.width / 560));
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, this.width, this.height);
    if (cloud.axes === 2) drawAxes(pen, cloud);
    pen.save();
    pen.beginPath();
    pen.rect(area.x, area.y, area.width, area.height);
    pen.clip();
    if (cloud.axes === 3) drawBox(pen, cloud);
    if (look.target) this.dots(cloud.target, 0, cloud.target.length / cloud.axes, radius * 0.85, 0.35, colors.target, classes && classes.target.length ? classes.target : null);
    if (look.start && frame) this.dots(cloud.positions, 0, cloud.count, radius * 0.85, 0.55, colors.source, null);
    if (look.trails) this.trails(this.trailing, Math.max(0, frame - 30), frame, colors.path, 0.3);
    this.dots(cloud.positions, cloud.at(frame, 0), cloud.count, radius, 0.85, colors.particles, classes ? classes.particles : null);
    for (const i of new Set([this.chosen, this.hovered])) if (i >= 0) this.mark(i, radius);
    pen.restore();
  }

  /* Dots of one colour, or of one for each class. */
  dots(array, from, count, radius, opacity, color, places) {
    const { pen, cloud } = this, paths = new Map();
    for (let i = 0; i < count; i++) {
      const shade = places ? this.data.classes.colors[places[i]] : color;
      if (!paths.has(shade)) paths.set(shade, new Path2D());
      const [x, y] = cloud.place(array, from + i * cloud.axes), path = paths.get(shade);
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 6.2832);
    }
    pen.globalAlpha = opacity;
    for (const [shade, path] of paths) { pen.fillStyle = shade; pen.fill(path); }
    pen.globalAlpha = 1;
  }

  trails(rows, first, last, color, opacity) {
    const { pen, cloud } = this;
    pen.beginPath();
    for (const i of rows) {
      for (let frame = first; frame <= last; frame++) {
        const [x, y] = cloud.place(cloud.positions, cloud.at(frame, i));
        if (frame === first) pen.moveTo(x, y); else pen.lineTo(x, y);
      }
    }
    Object.assign(pen, { strokeStyle: color, globalAlpha: opacity, lineWidth: 1 });
    pen.stroke();
    pen.globalAlpha = 1;
  }

  /* The whole way of a particle, and a ring about it. */
  mark(i, radius) {
    const { pen, cloud, frame } = this;
    this.trails([i], 0, cloud.frames - 1, "#1b1b1b", 0.8);
    const [x, y] = cloud.place(cloud.positions, cloud.at(frame, i));
    pen.beginPath();
    pen.arc(x, y, radius + 4, 0, 6.2832);
    Object.assign(pen, { strokeStyle: "#1b1b1b", lineWidth: 2.5 });
    pen.stroke();
  }
}

function drawAxes(pen, cloud) {
  const { area, data } = cloud, right = area.x + area.width, bottom = area.y + area.height;
  const low = cloud.unplace(area.x, bottom), high = cloud.unplace(right, area.y);
  Object.assign(pen, { font: "12px system-ui, sans-serif", fillStyle: "#595959", strokeStyle: "#e4e4e4", lineWidth: 1 });
  const line = (...places) => { pen.beginPath(); pen.moveTo(places[0], places[1]); pen.lineTo(places[2], places[3]); pen.stroke(); };
  pen.textAlign = "center";
  for (const mark of marks(low[0], high[0], Math.max(2, area.width / 90))) {
    const [x] = cloud.place([mark, 0], 0);
    line(x, area.y, x, bottom);
    pen.fillText(told(mark, 6), x, bottom + 15);
  }
  pen.fillText(data.labels[0], area.x + area.width / 2, bottom + 33, area.width);
  pen.textAlign = "right";
  for (const mark of marks(low[1], high[1], Math.max(2, area.height / 60))) {
    const [, y] = cloud.place([0, mark], 0);
    line(area.x, y, right, y);
    pen.fillText(told(mark, 6), area.x - 5, y + 4, area.x - 20);
  }
  pen.save();
  pen.translate(11, area.y + area.height / 2);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillText(data.labels[1], 0, 0, area.height);
  pen.restore();
}

/* The box of all points, with a name at an edge for each axis, outside of it. */
function drawBox(pen, cloud) {
  const { data: { low, high, labels }, area } = cloud;
  const corner = (code) => cloud.place([0, 1, 2].map((k) => (code >> k) & 1 ? high[k] : low[k]), 0);
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map(corner);
  const last = (axis, sign) => corners.reduce((best, place, code) => sign * place[axis] > sign * corners[best][axis] ? code : best, 0);
  const named = [[last(1, 1), 0], [last(1, 1), 1], [last(0, -1), 2]];
  const edge = (code, k) => { pen.beginPath(); pen.moveTo(...corners[code]); pen.lineTo(...corners[code ^ 1 << k]); pen.stroke(); };
  Object.assign(pen, { strokeStyle: "#dcdcdc", lineWidth: 1, font: "12px system-ui, sans-serif", fillStyle: "#595959" });
  for (let code = 0; code < 8; code++) for (let k = 0; k < 3; k++) if (!((code >> k) & 1)) edge(code, k);
  pen.strokeStyle = "#767676";
  for (const [code, k] of named) {
    edge(code, k);
    const [x, y] = [0, 1].map((axis) => (corners[code][axis] + corners[code ^ 1 << k][axis]) / 2);
    const text = `${labels[k]}: ${told(low[k], 2)} to ${told(high[k], 2)}`, right = x > area.x + area.width / 2 + cloud.x;
    pen.textAlign = k === 2 ? "center" : right ? "left" : "right";
    if (k === 2) pen.fillText(text, x, Math.min(corners[code][1], corners[code ^ 4][1]) - 8, 150);
    else pen.fillText(text, x + (right ? 8 : -8), y + 16, 150);
  }
}
