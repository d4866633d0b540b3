// The classes with their colours and shares; hovering, focus and clicks mark one on the photo.

export class Legend {
  /** `marks(id)` is called with the class to mark, or null. */
  constructor(list, marks) {
    this.list = list;
    this.marks = marks;
    this.pinned = null;
    this.rows = new Map();
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.pin(null));
  }

  /** List the classes of a head, without shares. */
  open({ classes, palette }) {
    this.pin(null);
    this.classes = classes;
    this.rows = new Map(classes.map((name, id) => [id, this.#row(id, name, palette[id])]));
    this.list.replaceChildren(...[...this.rows.values()].map((button) => button.parentElement));
  }

  /** Show each class's share of the pixels, 0..1; the largest first, unless they stay in place. */
  fill(shares, { sorted = true } = {}) {
    for (const [id, button] of this.rows) {
      const share = shares[id];
      button.style.setProperty("--share", share);
      button.parentElement.classList.toggle("absent", !share);
      button.querySelector(".share").textContent = percent(share);
    }
    if (!sorted) return;
    const order = [...this.rows].sort(([a], [b]) => shares[b] - shares[a] || a - b);
    const focused = document.activeElement;
    this.list.append(...order.map(([, button]) => button.parentElement));
    if (this.list.contains(focused)) focused.focus();
  }

  /** Keep a class marked; the same again, or null, lets go of it. */
  pin(id) {
    this.pinned = id === this.pinned || !this.rows.has(id) ? null : id;
    for (const [own, button] of this.rows) {
      button.setAttribute("aria-pressed", String(own === this.pinned));
    }
    this.marks(this.pinned);
  }

  /** Show which class is under the pointer, or none (null). */
  point(id) {
    for (const [own, button] of this.rows) button.classList.toggle("pointed", own === id);
  }

  #row(id, name, [red, green, blue]) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.style.setProperty("--colour", `rgb(${red} ${green} ${blue})`);
    button.append(...["swatch", "name", "share", "bar"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      return part;
    }));
    button.querySelector(".name").textContent = name;
    item.append(button);
    for (const event of ["pointerenter", "focus"]) {
      button.addEventListener(event, () => this.marks(id));
    }
    for (const event of ["pointerleave", "blur"]) {
      button.addEventListener(event, () => this.marks(this.pinned));
    }
    button.addEventListener("click", () => this.pin(id));
    return button;
  }
}

/** A share as people read it: "12.3 %". */
export function percent(share) {
  if (!share) return "–";
  return share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}
