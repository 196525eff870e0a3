/* The particles of a run, and where each is in a picture of some size, seen from somewhere. */
class Cloud {
  constructor(data) {
    Object.assign(this, { data, axes: data.axes, count: data.rows.length, frames: data.steps.length });
    this.positions = points(data.positions, data);
    this.target = points(data.target, data);
    this.ends = data.ends ? unpack(data.ends, "f4") : null;
    this.images = data.images ? unpack(data.images.bytes, "u1") : null;
    this.centre = data.low.map((low, k) => (low + data.high[k]) / 2 * data.scale[k]);
    this.extent = data.low.map((low, k) => (data.high[k] - low) * data.scale[k]);
    this.resize(400, 300);
    this.reset();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: 0, y: 0, yaw: -0.6, pitch: 0.45 });
  }

  /* The part of the picture that points are in, and how many pixels a unit of length is there. */
  resize(width, height) {
    const flat = this.axes === 2;
    this.area = flat ? { x: 52, y: 8, width: width - 62, height: height - 48 } : { x: 8, y: 8, width: width - 16, height: height - 16 };
    const { width: w, height: h } = this.area;
    if (flat) {
      const each = [w / this.extent[0], h / this.extent[1]].map((pixels) => pixels * 0.96), least = Math.min(...each);
      this.pixels = this.data.alike ? [least, least] : each;
    } else {
      const least = 1.15 * Math.min(w, h) / Math.hypot(...this.extent);  // a box is seldom seen along its diagonal
      this.pixels = [least, least];
    }
  }

  /* Where a point is in the picture: from `array[at]` on are its coordinates. */
  place(array, at) {
    const { data: { scale }, centre, area } = this;
    let across = array[at] * scale[0] - centre[0], up = array[at + 1] * scale[1] - centre[1];
    if (this.axes === 3) {
      const high = array[at + 2] * scale[2] - centre[2];
      const turned = across * Math.cos(this.yaw) - up * Math.sin(this.yaw), away = across * Math.sin(this.yaw) + up * Math.cos(this.yaw);
      across = turned;
      up = high * Math.cos(this.pitch) + away * Math.sin(this.pitch);
    }
    return [
      area.x + area.width / 2 + this.x + this.zoom * this.pixels[0] * across,
      area.y + area.height / 2 + this.y - this.zoom * this.pixels[1] * up,
    ];
  }

  /* The coordinates of a place in the picture; in the plane alone. */
  unplace(x, y) {
    const { data: { scale }, centre, area } = this;
    return [
      ((x - area.x - area.width / 2 - this.x) / this.zoom / this.pixels[0] + centre[0]) / scale[0],
      (-(y - area.y - area.height / 2 - this.y) / this.zoom / this.pixels[1] + centre[1]) / scale[1],
    ];
  }

  at(frame, i) {
    return (frame * this.count + i) * this.axes;
  }

  /* Nearer or farther, with one place of the picture where it is. */
  zoomBy(factor, x, y) {
    const { area } = this, zoom = Math.min(64, Math.max(0.25, this.zoom * factor));
    const right = (x ?? area.x + area.width / 2) - area.x - area.width / 2, down = (y ?? area.y + area.height / 2) - area.y - area.height / 2;
    this.x = right - (right - this.x) * zoom / this.zoom;
    this.y = down - (down - this.y) * zoom / this.zoom;
    this.zoom = zoom;
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(1.57, Math.max(-1.57, this.pitch + pitch));
  }

  /* The particle that is nearest to a place of the picture, within 14 pixels; or -1. */
  pick(frame, x, y) {
    let best = -1, least = 14 ** 2;
    for (let i = 0; i < this.count; i++) {
      const [across, down] = this.place(this.positions, this.at(frame, i)), far = (across - x) ** 2 + (down - y) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  className(i) {
    const { classes } = this.data;
    return classes ? `, class ${classes.names[classes.particles[i]]}` : "";
  }

  /* What is known of a particle at a snapshot, in words. */
  describe(frame, i) {
    const { data } = this, head = `Row ${data.rows[i] + 1}${this.className(i)}`;
    if (data.drawn) {
      const at = this.at(frame, i);
      const values = data.columns.map((name, k) => `${name} = ${told(this.positions[at + k])}`);
      return `${head}, at step ${data.steps[frame]}: ${values.join(", ")}`;
    }
    const values = data.columns.map((name, k) => `${name} = ${told(this.ends[i * data.columns.length + k])}`);
    const more = data.dimension > data.columns.length ? `, and ${data.dimension - data.columns.length} more columns` : "";
    return `${head}, at the end (step ${data.steps[this.frames - 1]}): ${values.join(", ")}${more}`;
  }
}
