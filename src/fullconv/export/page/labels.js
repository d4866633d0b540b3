// What is in a label map: width x height class ids, a byte a pixel, from the top left.

/** Count the pixels of each id: 256 numbers. */
export function countsOf(labels) {
  const counts = new Uint32Array(256);
  for (let i = 0; i < labels.length; i++) counts[labels[i]]++;
  return counts;
}

/** Every third pixel or so: a smaller map, for the screen. */
export function sampled(labels, width, height, newWidth, newHeight) {
  if (newWidth === width && newHeight === height) return labels;
  const small = new Uint8Array(newWidth * newHeight);
  for (let y = 0, i = 0; y < newHeight; y++) {
    const row = Math.floor(((y + 0.5) * height) / newHeight) * width;
    for (let x = 0; x < newWidth; x++, i++) {
      small[i] = labels[row + Math.floor(((x + 0.5) * width) / newWidth)];
    }
  }
  return small;
}

/**
 * The regions of a label map as a GeoJSON FeatureCollection in pixels: x to the right, y down, on
 * the corners of pixels. A region is what hangs together over the sides of its pixels. Its first
 * ring is its rim, the others are its holes.
 */
export function polygons(labels, width, height, classes) {
  const regions = regionsOf(labels, width, height);
  const features = [];
  const traced = new Uint8Array(labels.length); // pixels whose upper side is part of a ring
  for (let start = 0; start < labels.length; start++) {
    const region = regions.ids[start];
    if (traced[start] || (start >= width && regions.ids[start - width] === region)) continue;
    const ring = ringFrom(start, regions.ids, width, height, traced);
    if (features[region]) {
      features[region].geometry.coordinates.push(ring);
      continue;
    }
    const id = labels[start];
    features[region] = {
      type: "Feature",
      properties: { class: classes[id] ?? null, id, pixels: regions.sizes[region] },
      geometry: { type: "Polygon", coordinates: [ring] },
    };
  }
  return { type: "FeatureCollection", bbox: [0, 0, width, height], features };
}

/** Number the regions from the top: `ids` a pixel, `sizes` in pixels. */
function regionsOf(labels, width, height) {
  const ids = new Int32Array(labels.length).fill(-1);
  const sizes = [];
  const open = new Int32Array(labels.length);
  for (let start = 0; start < labels.length; start++) {
    if (ids[start] >= 0) continue;
    const region = sizes.length;
    let waiting = 0;
    let size = 0;
    const visit = (at) => {
      if (ids[at] >= 0 || labels[at] !== labels[start]) return;
      ids[at] = region;
      open[waiting++] = at;
      size++;
    };
    visit(start);
    while (waiting) {
      const at = open[--waiting];
      const x = at % width;
      if (x > 0) visit(at - 1);
      if (x < width - 1) visit(at + 1);
      if (at >= width) visit(at - width);
      if (at < labels.length - width) visit(at + width);
    }
    sizes.push(size);
  }
  return { ids, sizes };
}

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up
const AHEAD = [[0, 0], [-1, 0], [-1, -1], [0, -1]]; // from a corner, the pixel ahead on the right

/** Walk around a region, which is on the right, from the upper side of a pixel of it. */
function ringFrom(start, ids, width, height, traced) {
  const region = ids[start];
  const inside = (x, y) =>
    x >= 0 && y >= 0 && x < width && y < height && ids[y * width + x] === region;
  let x = start % width;
  let y = (start - x) / width;
  const ring = [[x, y]];
  const [x0, y0] = ring[0];
  let way = 0;
  do {
    if (way === 0) traced[y * width + x] = 1;
    x += STEPS[way][0];
    y += STEPS[way][1];
    const right = AHEAD[way];
    const left = AHEAD[(way + 3) % 4];
    let next = (way + 3) % 4;
    if (!inside(x + right[0], y + right[1])) next = (way + 1) % 4;
    else if (!inside(x + left[0], y + left[1])) next = way;
    if (next !== way || (x === x0 && y === y0)) ring.push([x, y]);
    way = next;
  } while (x !== x0 || y !== y0 || way !== 0);
  return ring;
}
