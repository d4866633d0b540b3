// Label maps as PNG files of 8 bits a pixel, which no canvas writes or reads as they are.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value >>> 0;
});

/** Write ids as a palette PNG: a Blob. `palette` has an [r, g, b] an id; the rest are white. */
export async function encode(labels, width, height, palette) {
  const rows = new Uint8Array((width + 1) * height); // before each row a 0: no filter
  for (let y = 0; y < height; y++) {
    rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits a pixel
  header.setUint8(9, 3); // by palette
  const colours = new Uint8Array(768).fill(255);
  palette.forEach((colour, id) => colours.set(colour, 3 * id));
  const packed = await through(new CompressionStream("deflate"), rows);
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("PLTE", colours),
    chunk("IDAT", packed),
    chunk("IEND", new Uint8Array()),
  ];
  return new Blob(parts, { type: "image/png" });
}

/** Read the ids of a PNG of 8 bits, grey or by palette: {labels, width, height}. */
export async function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const packed = [];
  for (let at = 8; at < bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IDAT") packed.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, colour, interlaced] = [bytes[24], bytes[25], bytes[28]];
  if (bits !== 8 || ![0, 3].includes(colour) || interlaced) throw new Error("no PNG of labels");
  const rows = await through(new DecompressionStream("deflate"), ...packed);
  return { labels: unfiltered(rows, width, height), width, height };
}

function unfiltered(rows, width, height) {
  const labels = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (width + 1)];
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const left = x ? labels[at - 1] : 0;
      const above = y ? labels[at - width] : 0;
      const corner = x && y ? labels[at - width - 1] : 0;
      const guess = [0, left, above, (left + above) >> 1, paeth(left, above, corner)][filter];
      labels[at] = rows[y * (width + 1) + x + 1] + guess;
    }
  }
  return labels;
}

function paeth(left, above, corner) {
  const guess = left + above - corner;
  const [a, b, c] = [left, above, corner].map((value) => Math.abs(guess - value));
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

function chunk(kind, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  let crc = ~0;
  for (const byte of bytes.subarray(4, -4)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(data.length + 8, ~crc >>> 0);
  return bytes;
}

async function through(stream, ...parts) {
  const packed = new Blob(parts).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(packed).arrayBuffer());
}
