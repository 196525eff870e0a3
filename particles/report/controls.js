/* One clock for all players and charts. */
(() => {
  const find = (name) => document.getElementById(name);
  const data = JSON.parse(find("data").textContent), look = { trails: false, start: false, target: true, classes: true };
  const roots = [...document.querySelectorAll(".player")];
  const players = roots.map((root, n) => new Player(root, data.runs[n], look, () => toggle()));
  const slider = find("time"), now = find("now"), play = find("play"), by = find("by"), speed = find("speed");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (calm) speed.value = "0.25";

  let clock = [], index = 0, playing = false, before = 0, owed = 0;

  /* What all runs have in common: steps, times, or parts of the way. */
  const keys = (run) => {
    if (by?.value === "time") return run.times;
    return by?.value === "part" ? run.steps.map((_, i) => i / Math.max(1, run.steps.length - 1)) : run.steps;
  };

  function wind() {
    const part = clock.length > 1 ? index / (clock.length - 1) : 0;
    const all = [...new Set(data.runs.flatMap(keys))].sort((a, b) => a - b), count = Math.min(all.length, 300);
    clock = Array.from({ length: count }, (_, i) => all[Math.round(i * (all.length - 1) / Math.max(1, count - 1))]);
    slider.max = String(clock.length - 1);
    show(Math.round(part * (clock.length - 1)));
  }

  function words() {
    if (by?.value === "time") return `time ${told(clock[index])}`;
    if (by?.value === "part") return `${Math.round(100 * clock[index])} % of the way`;
    const own = players.length === 1 ? `, time ${told(data.runs[0].times[players[0].frame])}` : "";
    return `step ${clock[index]} of ${clock[clock.length - 1]}${own}`;
  }

  function show(i) {
    index = Math.min(clock.length - 1, Math.max(0, i));
    players.forEach((player, n) => player.show(nearest(keys(data.runs[n]), clock[index]), !playing));
    slider.value = String(index);
    slider.setAttribute("aria-valuetext", words());
    now.textContent = words();
    cursors();
  }

  /* Charts */

  const charts = [...document.querySelectorAll("[data-chart]")].map((svg) => {
    const chart = data.charts[Number(svg.dataset.chart)], lines = chart.lines.filter((line) => line.run >= 0);
    const places = lines.map((line) => line.path.slice(1).split(" ").map((pair) => pair.split(",")));
    return { svg, chart, lines, places, values: [...svg.parentElement.querySelectorAll(".value")] };
  });

  function cursors() {
    const steps = players.map((player) => player.data.steps[player.frame]), along = (chart, step) => 56 + 284 * step / chart.last;
    for (const { svg, chart, lines, places, values } of charts) {
      const cursor = svg.querySelector(".cursor"), same = steps.every((step) => step === steps[0]);
      cursor.setAttribute("visibility", same ? "visible" : "hidden");
      cursor.setAttribute("x1", along(chart, steps[0]));
      cursor.setAttribute("x2", along(chart, steps[0]));
      svg.querySelectorAll("circle").forEach((dot, n) => {
        const known = lines[n].steps.filter((step) => step <= steps[lines[n].run]).length - 1;
        const [x, y] = known < 0 ? [-9, -9] : places[n][known];
        dot.setAttribute("cx", x);
        dot.setAttribute("cy", y);
        values[n].textContent = known < 0 ? "–" : `${told(lines[n].values[known], 3)} at step ${lines[n].steps[known]}`;
      });
    }
  }

  /* The snapshot of a step, whatever the clock counts. */
  const seek = (step) => show(nearest(clock, keys(data.runs[0])[nearest(data.runs[0].steps, step)]));
  for (const { svg, chart } of charts) {
    const move = (event) => {
      if (!(event.buttons & 1)) return;
      const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * 360;
      stop();
      seek(Math.min(1, Math.max(0, (x - 56) / 284)) * chart.last);
    };
    svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); move(event); });
    svg.addEventListener("pointermove", move);
  }

  /* Playing: the whole way takes ten seconds, at single speed. */

  function stop() {
    playing = false;
    play.textContent = "Play";
    players.forEach((player) => { player.live = true; });
  }

  function toggle() {
    if (playing) return stop();
    if (index === clock.length - 1) show(0);
    playing = true;
    play.textContent = "Pause";
    [before, owed] = [performance.now(), 0];
    return requestAnimationFrame(tick);
  }

  function tick(time) {
    if (!playing) return;
    owed += Math.max(0, time - before) * Number(speed.value) * Math.max(6, clock.length / 10) / 1000;
    before = time;
    const whole = Math.floor(owed);
    if (whole > 0) {
      owed -= whole;
      show(index + whole);
    }
    if (index >= clock.length - 1) stop();
    else requestAnimationFrame(tick);
  }

  /* Controls */

  const step = (by) => { stop(); show(index + by); };
  play.addEventListener("click", toggle);
  find("back").addEventListener("click", () => step(-1));
  find("forward").addEventListener("click", () => step(1));
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  by?.addEventListener("change", wind);
  for (const name of Object.keys(look)) {
    const box = find(name);
    box?.addEventListener("change", () => { look[name] = box.checked; legend(); players.forEach((player) => player.draw()); });
    if (box) look[name] = box.checked;  // what a reload has kept
  }

  function legend() {
    roots.forEach((root, n) => {
      const byClass = look.classes && data.runs[n].classes !== null;
      const there = { particles: !byClass, target: look.target && !(byClass && data.runs[n].classes.target.length), source: look.start, class: byClass };
      root.querySelectorAll("[data-role]").forEach((entry) => { entry.hidden = !there[entry.dataset.role]; });
    });
  }

  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
    const text = find(button.dataset.copy), said = button.parentElement.querySelector(".copied");
    try {
      await navigator.clipboard.writeText(text.textContent);
      said.textContent = "Copied.";
    } catch {
      window.getSelection().selectAllChildren(text);
      said.textContent = "Selected: copy it with Ctrl+C.";
    }
  }));

  legend();
  wind();

  /* What the page shows, for tests and for the curious: read only. */
  const state = () => ({
    index, playing, clock: [...clock],
    players: players.map(({ frame, chosen, hovered, data: run, cloud }) => ({
      frame, step: run.steps[frame], time: run.times[frame],
      chosen: chosen < 0 ? null : run.rows[chosen] + 1, hovered: hovered < 0 ? null : run.rows[hovered] + 1,
      zoom: cloud.zoom, x: cloud.x, y: cloud.y, yaw: cloud.yaw, pitch: cloud.pitch,
      positions: Array.from({ length: cloud.count }, (_, i) => [...cloud.positions.subarray(cloud.at(frame, i), cloud.at(frame, i + 1))]),
      places: Array.from({ length: cloud.count }, (_, i) => cloud.place(cloud.positions, cloud.at(frame, i))),
    })),
  });
  Object.defineProperty(window, "particlesReport", { value: Object.freeze({ state }) });
})();
