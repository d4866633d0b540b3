// The photo with its labels on it, a class marked, and what is under the pointer.

import { sampled } from "./labels.js";

const MOST = 1600; // pixels of the longer side on the screen
const HATCH = 12; // pixels of the screen between the lines that mark a class

export class View {
  /** `reads(id, x, y)` is called with what is under the pointer, or null; `picks(id)` on a click. */
  constructor(root, { reads, picks }) {
    this.frame = root.querySelector("#frame");
    this.stage = this.frame.parentElement;
    [this.photo, this.overlay, this.mark] = this.frame.querySelectorAll("canvas");
    this.cross = this.frame.querySelector("#cross");
    this.tip = this.frame.querySelector("#tip");
    this.reads = reads;
    this.picks = picks;
    this.marked = null;
    this.at = null;
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  /** Show a bitmap; its labels follow (`lay`), those there were stay until then. */
  show(bitmap, name) {
    const { width, height } = bitmap;
    const shrunk = Math.min(1, (2 * MOST) / Math.max(width, height));
    this.photo.width = Math.round(width * shrunk);
    this.photo.height = Math.round(height * shrunk);
    this.photo.getContext("2d").drawImage(bitmap, 0, 0, this.photo.width, this.photo.height);
    this.frame.style.setProperty("--ratio", width / height);
    this.frame.setAttribute("aria-label", `${name}, ${width} by ${height} pixels`);
    this.frame.hidden = false;
    this.frame.tabIndex = 0;
    this.stage.classList.remove("empty");
  }

  /** Take the labels away. */
  clear() {
    this.labels = null;
    this.point(null);
    this.draw();
  }

  /** Lay labels over it. */
  lay(labels, width, height, palette) {
    Object.assign(this, { labels, width, height, palette });
    this.draw();
  }

  /** Mark a class, or none (null). */
  setMarked(id) {
    if (id === this.marked) return;
    this.marked = id;
    this.#drawMark();
  }

  draw() {
    this.frame.classList.toggle("labelled", Boolean(this.labels));
    if (!this.labels) this.#drawMark();
    if (!this.labels || !this.frame.clientWidth) return;
    const { clientWidth, clientHeight } = this.frame;
    const scale = Math.min(devicePixelRatio, MOST / Math.max(clientWidth, clientHeight));
    const width = Math.max(1, Math.round(clientWidth * scale));
    const height = Math.max(1, Math.round(clientHeight * scale));
    this.shown = sampled(this.labels, this.width, this.height, width, height);
    this.grain = Math.max(1, Math.round(scale));
    for (const canvas of [this.overlay, this.mark]) Object.assign(canvas, { width, height });
    this.#drawOverlay();
    this.#drawMark();
  }

  #drawOverlay() {
    paint(this.overlay, (four) => {
      const colours = coloursOf(this.palette);
      const { width } = this.overlay;
      const edge = 0xccffffff;
      for (let i = 0; i < four.length; i++) {
        const id = this.shown[i];
        const rim = id !== this.shown[i - this.grain] || id !== this.shown[i - this.grain * width];
        four[i] = rim && i % width >= this.grain && i >= width * this.grain ? edge : colours[id];
      }
    });
  }

  /** Lines across the class and a rim, which need no colour to be seen; all else is dimmed. */
  #drawMark() {
    const id = this.labels ? this.marked : null;
    this.mark.classList.toggle("on", id !== null);
    this.overlay.classList.toggle("dimmed", id !== null);
    if (id === null) return;
    const { width, height } = this.mark;
    const [shown, grain] = [this.shown, this.grain];
    const [pitch, thick] = [HATCH * grain, 1.5 * grain];
    const colour = (coloursOf(this.palette)[id] & 0xffffff) | 0xa0000000;
    paint(this.mark, (four) => {
      for (let y = 0, i = 0; y < height; y++) {
        for (let x = 0; x < width; x++, i++) {
          const inside = shown[i] === id;
          const near = (by) =>
            (x >= by && (shown[i - by] === id) !== inside) ||
            (x < width - by && (shown[i + by] === id) !== inside) ||
            (y >= by && (shown[i - by * width] === id) !== inside) ||
            (y < height - by && (shown[i + by * width] === id) !== inside);
          if (near(grain)) four[i] = inside ? 0xffffffff : 0xff000000;
          else if (!inside) four[i] = 0x99101010;
          else if (near(2 * grain)) four[i] = 0xffffffff;
          else four[i] = (x + y) % pitch < thick ? 0xd0ffffff : colour;
        }
      }
    });
  }

  /** Point at a pixel {x, y} of the labels, or at none (null). */
  point(at, { crossed = false } = {}) {
    this.at = this.labels ? at : null;
    this.tip.hidden = this.cross.hidden = true;
    if (!this.at) return this.reads(null);
    const { x, y } = this.at;
    const id = this.labels[y * this.width + x];
    const [left, top] = [((x + 0.5) / this.width) * 100, ((y + 0.5) / this.height) * 100];
    for (const [element, hidden] of [[this.cross, !crossed], [this.tip, false]]) {
      element.style.left = `${left}%`;
      element.style.top = `${top}%`;
      element.hidden = hidden;
    }
    this.tip.classList.toggle("leftwards", left > 60);
    this.tip.classList.toggle("upwards", top > 60);
    this.tip.textContent = this.reads(id, x, y, crossed);
    return id;
  }

  #listen() {
    const { frame } = this;
    const under = ({ clientX, clientY }) => {
      const box = frame.getBoundingClientRect();
      const place = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value * size)));
      return {
        x: place((clientX - box.left) / box.width, this.width),
        y: place((clientY - box.top) / box.height, this.height),
      };
    };
    frame.addEventListener("pointermove", (event) => this.point(under(event)));
    frame.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.point(null);
    });
    frame.addEventListener("blur", () => this.point(null));
    frame.addEventListener("click", (event) => {
      if (this.labels) this.picks(this.point(under(event)));
    });
    frame.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    if (!this.labels || event.ctrlKey || event.metaKey || event.altKey) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { x, y } = this.at ?? { x: this.width >> 1, y: this.height >> 1 };
    if (event.key in ways) {
      const far = Math.max(1, Math.round(Math.max(this.width, this.height) / (event.shiftKey ? 10 : 100)));
      const [right, down] = ways[event.key];
      const within = (value, size) => Math.min(size - 1, Math.max(0, value));
      const first = !this.at;
      this.point(
        {
          x: within(x + (first ? 0 : right * far), this.width),
          y: within(y + (first ? 0 : down * far), this.height),
        },
        { crossed: true },
      );
    } else if (event.key === "Enter" || event.key === " ") {
      this.picks(this.point({ x, y }, { crossed: true }));
    } else return;
    event.preventDefault();
  }
}

/** The colours of 256 ids, each as a canvas holds it; white without one. */
export function coloursOf(palette) {
  const colours = new Uint32Array(256).fill(0xffffffff);
  const bytes = new Uint8Array(colours.buffer);
  palette.forEach(([red, green, blue], id) => bytes.set([red, green, blue, 255], 4 * id));
  return colours;
}

function paint(canvas, fill) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  fill(new Uint32Array(image.data.buffer));
  context.putImageData(image, 0, 0);
}
