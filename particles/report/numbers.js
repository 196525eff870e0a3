"use strict";

/* Numbers as text in base 64: `u2` for [0, 1] in 16 bits, `f4` for 32-bit floats, `u1` for bytes. */
function unpack(text, kind) {
  const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  if (kind === "u1") return raw;
  return kind === "f4" ? new Float32Array(raw.buffer) : Float64Array.from(new Uint16Array(raw.buffer), (value) => value / 65535);
}

/* Points in a box, with the coordinates of the run. */
function points(text, data) {
  const parts = unpack(text, data.kind), found = new Float64Array(parts.length);
  for (let i = 0; i < parts.length; i++) {
    const axis = i % data.axes;
    found[i] = data.low[axis] + parts[i] * (data.high[axis] - data.low[axis]);
  }
  return found;
}

function told(value, digits = 4) {
  if (!Number.isFinite(value)) return "–";
  const short = Number(value.toPrecision(digits));
  return short !== 0 && Math.abs(short) < 1e-3 ? short.toExponential() : String(short);
}

/* About `most` round numbers between two. */
function marks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((part) => part >= rough * 0.999) || rough;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high && found.length < 50; i++) found.push(i * step);
  return found;
}

/* The place in ascending numbers that is nearest to a value. */
function nearest(values, value) {
  let best = 0;
  values.forEach((other, i) => { if (Math.abs(other - value) < Math.abs(values[best] - value)) best = i; });
  return best;
}
