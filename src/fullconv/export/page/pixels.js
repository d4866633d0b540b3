// The pixels of a photo as they are stored: no colour profile, no transparency, upright.

const EXACT = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** Return {pixels, width, height} of a Blob or an ImageBitmap: RGB, three bytes a pixel. */
export async function pixelsOf(source) {
  const bitmap = source instanceof Blob ? await decoded(source) : source;
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  let four = context.getImageData(0, 0, width, height).data;
  if (isTransparent(four)) four = unblended(bitmap) ?? four;
  if (bitmap !== source) bitmap.close();
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = four[from];
    pixels[to + 1] = four[from + 1];
    pixels[to + 2] = four[from + 2];
  }
  return { pixels, width, height };
}

async function decoded(blob) {
  try {
    return await createImageBitmap(blob, EXACT);
  } catch {
    throw new Error("This browser can't read that file as an image.");
  }
}

function isTransparent(four) {
  for (let i = 3; i < four.length; i += 4) if (four[i] !== 255) return true;
  return false;
}

/** Colours where they are transparent: a 2D canvas has lost them, a texture keeps them. */
function unblended(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const four = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, four);
  return four;
}
