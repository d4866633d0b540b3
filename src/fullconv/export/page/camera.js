// Live video, frame by frame: as many a second, of the size, that the machine labels in good time.

const [LEAST, MOST] = [160, 640]; // pixels of the longer side
const [QUICK, SLOW] = [0.1, 0.25]; // seconds a frame

export class Camera {
  /** Whether this browser lets a page see cameras: only on https and on localhost. */
  static get isThere() {
    return Boolean(navigator.mediaDevices?.getUserMedia);
  }

  async open() {
    const video = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } };
    this.stream = await navigator.mediaDevices.getUserMedia({ video });
    this.video = document.createElement("video");
    Object.assign(this.video, { srcObject: this.stream, muted: true, playsInline: true });
    await this.video.play();
    this.isOpen = true;
    this.side = LEAST * 2;
  }

  close() {
    this.isOpen = false;
    for (const track of this.stream?.getTracks() ?? []) track.stop();
  }

  /** The current frame: an ImageBitmap. */
  frame() {
    return createImageBitmap(this.video);
  }

  /** Label frames until it is closed. `shows` gets each frame, its labels and frames a second. */
  async run(label, shows) {
    let rate = 0;
    while (this.isOpen) {
      const begun = performance.now();
      const frame = await this.frame();
      const result = await label({ bitmap: await this.#reduced(frame) });
      result.bitmap?.close();
      const seconds = (performance.now() - begun) / 1000;
      rate = rate ? 0.8 * rate + 0.2 / seconds : 1 / seconds;
      if (this.isOpen) shows(frame, result, rate);
      frame.close();
      this.#adapt(seconds);
      await new Promise(requestAnimationFrame);
    }
  }

  #reduced(frame) {
    const { width, height } = frame;
    const factor = Math.min(1, this.side / Math.max(width, height));
    const size = { resizeWidth: Math.round(width * factor), resizeHeight: Math.round(height * factor) };
    return createImageBitmap(frame, { ...size, resizeQuality: "medium" });
  }

  #adapt(seconds) {
    if (seconds > SLOW) this.side = Math.max(LEAST, this.side - 32);
    else if (seconds < QUICK) this.side = Math.min(MOST, this.side + 32);
  }
}
