/* The viewer of the page: three linked planes of the brain on canvases, without any library. */
"use strict";
(() => {
  const room = document.getElementById("viewer");
  const part = (name) => room.querySelector(`[data-part="${name}"]`);
  const opener = part("open");
  if (!opener) return;
  /* The patient's right, and front, on the left of the image: every first axis runs backwards. */
  const PLANES = [
    { name: "Axial", axis: 2, across: 0, up: 1, letters: ["R", "L", "A", "P"] },
    { name: "Coronal", axis: 1, across: 0, up: 2, letters: ["R", "L", "S", "I"] },
    { name: "Sagittal", axis: 0, across: 1, up: 2, letters: ["A", "P", "S", "I"] },
  ];
  let about, volumes, strides, at, zoom = 1;

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const text = (id) => document.getElementById(id).textContent;

  async function unpacked() {
    const stream = new Blob([bytes(text("viewer-data"))]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /* Values of a volume in a plane: rows from the top of the image, columns from its left. */
  function cut(volume, plane) {
    const wide = about.shape[plane.across], high = about.shape[plane.up];
    const found = new Uint8Array(wide * high);
    const across = strides[plane.across], up = strides[plane.up];
    for (let row = 0, k = 0; row < high; row++) {
      let place = at[plane.axis] * strides[plane.axis] + (high - 1 - row) * up + (wide - 1) * across;
      for (let column = 0; column < wide; column++, place -= across) found[k++] = volume[place];
    }
    return found;
  }

  /* The line on which values cross a level, by marching squares: a path in voxels of the plane. */
  function contour(values, wide, high, level) {
    const path = new Path2D();
    for (let row = 0; row < high - 1; row++) {
      for (let column = 0; column < wide - 1; column++) {
        const k = row * wide + column;
        const a = values[k] - level, b = values[k + 1] - level, c = values[k + wide + 1] - level, d = values[k + wide] - level;
        if ((a > 0) === (b > 0) && (b > 0) === (c > 0) && (c > 0) === (d > 0)) continue;
        const x = column + 0.5, y = row + 0.5, ends = [];
        if ((a > 0) !== (b > 0)) ends.push([x + a / (a - b), y]);
        if ((b > 0) !== (c > 0)) ends.push([x + 1, y + b / (b - c)]);
        if ((c > 0) !== (d > 0)) ends.push([x + d / (d - c), y + 1]);
        if ((d > 0) !== (a > 0)) ends.push([x, y + a / (a - d)]);
        for (let end = 0; end + 1 < ends.length; end += 2) {
          path.moveTo(...ends[end]);
          path.lineTo(...ends[end + 1]);
        }
      }
    }
    return path;
  }

  function draw(plane) {
    const { canvas, sheet } = plane, wide = about.shape[plane.across], high = about.shape[plane.up];
    const width = canvas.clientWidth, height = canvas.clientHeight, fine = window.devicePixelRatio || 1;
    if (!width || !height) return;
    canvas.width = Math.round(width * fine);
    canvas.height = Math.round(height * fine);
    const grey = cut(volumes[about.images[part("image").selectedIndex].at], plane);
    const map = about.maps[part("map").selectedIndex - 1];
    const values = map && cut(volumes[map.at], plane), opacity = part("opacity").value / 100;
    const pixels = new ImageData(wide, high);
    for (let k = 0, p = 0; k < grey.length; k++, p += 4) {
      const strength = map ? (opacity * map.table[4 * values[k] + 3]) / 255 : 0;
      for (let c = 0; c < 3; c++) {
        pixels.data[p + c] = grey[k] * (1 - strength) + (strength ? map.table[4 * values[k] + c] * strength : 0);
      }
      pixels.data[p + 3] = 255;
    }
    sheet.getContext("2d").putImageData(pixels, 0, 0);
    /* Pixels of the screen for a voxel, and where the first voxel lies: the crosshair stays in sight. */
    const x = (fine * width * zoom) / wide, y = (fine * height * zoom) / high;
    const middle = [wide - 0.5 - at[plane.across], high - 0.5 - at[plane.up]];
    const left = clamp(canvas.width / 2 - middle[0] * x, canvas.width - wide * x, 0);
    const top = clamp(canvas.height / 2 - middle[1] * y, canvas.height - high * y, 0);
    plane.view = { x: x / fine, y: y / fine, left: left / fine, top: top / fine };
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(sheet, left, top, wide * x, high * y);
    const place = new DOMMatrix([x, 0, 0, y, left, top]);
    about.outlines.forEach((outline) => {
      if (!outline.box.checked) return;
      const path = new Path2D();
      path.addPath(contour(cut(volumes[outline.at], plane), wide, high, outline.level), place);
      pen.setLineDash(outline.dashed ? [5 * fine, 3 * fine] : []);
      pen.lineCap = "round";
      for (const [colour, thick] of [["rgba(0, 0, 0, 0.65)", 3.2], [outline.colour, 1.7]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = thick * fine;
        pen.stroke(path);
      }
    });
    pen.setLineDash([]);
    if (part("crosshair").checked) {
      const column = left + middle[0] * x, row = top + middle[1] * y, gap = 9 * fine;
      pen.strokeStyle = "rgba(255, 255, 255, 0.75)";
      pen.lineWidth = fine;
      pen.beginPath();
      for (const [from, to] of [[0, column - gap], [column + gap, canvas.width]]) { pen.moveTo(from, row); pen.lineTo(to, row); }
      for (const [from, to] of [[0, row - gap], [row + gap, canvas.height]]) { pen.moveTo(column, from); pen.lineTo(column, to); }
      pen.stroke();
    }
    pen.font = `bold ${13 * fine}px sans-serif`;
    pen.textBaseline = "middle";
    const edge = 9 * fine, h = canvas.width, v = canvas.height, letters = plane.letters;
    [[edge, v / 2], [h - edge, v / 2], [h / 2, edge], [h / 2, v - edge]].forEach((spot, k) => {
      pen.textAlign = "center";
      pen.lineWidth = 3 * fine;
      pen.strokeStyle = "#000";
      pen.strokeText(letters[k], ...spot);
      pen.fillStyle = "#fff";
      pen.fillText(letters[k], ...spot);
    });
    pen.fillStyle = "#000";
  }

  const world = () => about.affine.slice(0, 3).map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
  const minus = (value, digits) => value.toFixed(digits).replace("-", "\u2212");

  function show() {
    PLANES.forEach((plane) => {
      draw(plane);
      plane.slider.value = at[plane.axis];
    });
    const index = at[0] * strides[0] + at[1] * strides[1] + at[2];
    const [x, y, z] = world().map((each) => minus(each, 0));
    const map = about.maps[part("map").selectedIndex - 1];
    const value = map ? map.low + (volumes[map.at][index] / 255) * (map.high - map.low) : 0;
    part("where").textContent = `x ${x}, y ${y}, z ${z} mm` + (map ? `: ${map.name} ${minus(value, map.high < 10 ? 2 : 1)}` : "");
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; show(); });
  }

  function move(axis, to) {
    at[axis] = clamp(Math.round(to), 0, about.shape[axis] - 1);
    later();
  }

  function point(plane, event) {
    const box = plane.canvas.getBoundingClientRect(), view = plane.view;
    const column = (event.clientX - box.left - view.left) / view.x, row = (event.clientY - box.top - view.top) / view.y;
    move(plane.across, about.shape[plane.across] - 0.5 - column);
    move(plane.up, about.shape[plane.up] - 0.5 - row);
  }

  function listen(plane) {
    const { canvas, slider } = plane;
    canvas.addEventListener("click", (event) => point(plane, event));
    /* A finger that drags scrolls the page. */
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons && event.pointerType !== "touch") point(plane, event);
    });
    canvas.addEventListener("wheel", (event) => {
      /* The page scrolls unless the reader has chosen this plane. */
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      move(plane.axis, at[plane.axis] - Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = {
        ArrowLeft: [plane.across, 1], ArrowRight: [plane.across, -1], ArrowUp: [plane.up, 1], ArrowDown: [plane.up, -1],
        PageUp: [plane.axis, 1], PageDown: [plane.axis, -1],
      }[event.key];
      if (!steps) return;
      event.preventDefault();
      move(steps[0], at[steps[0]] + steps[1]);
    });
    slider.addEventListener("input", () => move(plane.axis, Number(slider.value)));
  }

  function choices(select, names) {
    names.forEach((name) => select.append(new Option(name)));
  }

  function build() {
    const [, ny, nz] = about.shape;
    strides = [ny * nz, nz, 1];
    at = [...about.focus];
    choices(part("image"), about.images.map((image) => image.name));
    part("image").parentElement.hidden = about.images.length < 2;
    choices(part("map"), ["none", ...about.maps.map((map) => map.name)]);
    part("map").selectedIndex = 1;
    about.maps.forEach((map) => { map.table = bytes(map.colours); });
    about.outlines.forEach((outline) => {
      const label = document.createElement("label"), box = document.createElement("input"), line = document.createElement("i");
      Object.assign(box, { type: "checkbox", checked: outline.shown });
      box.addEventListener("change", later);
      line.style.borderTop = `3px ${outline.dashed ? "dashed" : "solid"} ${outline.colour}`;
      label.append(box, line, outline.name);
      part("outlines").append(label);
      outline.box = box;
    });
    const wide = PLANES.map((plane) => about.shape[plane.across] * about.spacing[plane.across]);
    PLANES.forEach((plane, number) => {
      const figure = room.querySelectorAll("[data-plane]")[number];
      plane.canvas = figure.querySelector("canvas");
      plane.slider = figure.querySelector("input");
      plane.slider.max = about.shape[plane.axis] - 1;
      plane.canvas.style.aspectRatio = `${wide[number]} / ${about.shape[plane.up] * about.spacing[plane.up]}`;
      figure.style.flexGrow = wide[number];
      plane.sheet = document.createElement("canvas");
      plane.sheet.width = about.shape[plane.across];
      plane.sheet.height = about.shape[plane.up];
      listen(plane);
    });
    part("map").addEventListener("change", bar);
    for (const name of ["image", "map", "crosshair"]) part(name).addEventListener("change", later);
    part("opacity").addEventListener("input", later);
    part("zoom").addEventListener("input", () => { zoom = Number(part("zoom").value); later(); });
    part("back").addEventListener("click", () => { at = [...about.focus]; later(); });
    window.addEventListener("resize", later);
    bar();
  }

  function bar() {
    const map = about.maps[part("map").selectedIndex - 1], scale = part("bar");
    scale.hidden = !map;
    if (!map) return;
    scale.querySelector("b").textContent = map.label;
    scale.querySelector("i").style.background = `linear-gradient(to right, ${map.bar.gradient})`;
    scale.querySelector("span").replaceChildren(...map.bar.ticks.map(([place, words]) => {
      const tick = document.createElement("em");
      tick.style.left = `${place}%`;
      tick.textContent = words;
      return tick;
    }));
  }

  async function open() {
    opener.disabled = true;
    opener.textContent = "Unpacking the slices \u2026";
    try {
      about = JSON.parse(text("viewer-about"));
      const all = await unpacked(), size = about.shape.reduce((a, b) => a * b);
      volumes = Array.from({ length: all.length / size }, (_, k) => all.subarray(k * size, (k + 1) * size));
      build();
      part("stage").hidden = false;
      part("door").hidden = true;
      show();
      room.dataset.state = "open";
    } catch (error) {
      opener.hidden = true;
      part("failed").hidden = false;
      room.dataset.state = "failed";
      console.warn(error);
    }
  }

  part("door").hidden = false;
  opener.addEventListener("click", open);
})();
