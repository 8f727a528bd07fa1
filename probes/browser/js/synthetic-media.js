/**
 * A picture and a tone made in the page, so that a quality test needs nobody's permission.
 * @module
 */

/** @typedef {{stream: MediaStream, stop: () => void}} Media */

const WIDTH = 640;
const HEIGHT = 480;
const FRAMES_PER_S = 30;
const GRAIN = 16;
const TONE_HZ = 330;
const QUIET = 0.2;

/** @returns {Media | null} null where the browser cannot */
export function syntheticMedia() {
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const pen = canvas.getContext("2d");
  if (!pen || !canvas.captureStream) return null;
  const drawing = setInterval(() => draw(pen), 1000 / FRAMES_PER_S);
  draw(pen);
  const stream = canvas.captureStream(FRAMES_PER_S);
  const tone = hum();
  if (tone) stream.addTrack(tone.track);
  const stop = () => {
    clearInterval(drawing);
    for (const track of stream.getTracks()) track.stop();
    tone?.stop();
  };
  return { stream, stop };
}

/** Coarse noise that moves: an encoder has as much to do as with a face. @param {CanvasRenderingContext2D} pen */
function draw(pen) {
  const shift = (performance.now() / 20) % WIDTH;
  const light = pen.createLinearGradient(shift - WIDTH, 0, shift + WIDTH, HEIGHT);
  for (const [at, colour] of /** @type {const} */ ([[0, "#0f766e"], [0.5, "#f3bd5c"], [1, "#14201f"]])) light.addColorStop(at, colour);
  pen.fillStyle = light;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  for (let spot = 0; spot < 160; spot++) {
    pen.fillStyle = `hsl(${Math.random() * 360} 60% 50%)`;
    pen.fillRect(Math.random() * WIDTH, Math.random() * HEIGHT, GRAIN, GRAIN);
  }
}

/** @returns {{track: MediaStreamTrack, stop: () => void} | null} */
function hum() {
  if (typeof AudioContext === "undefined") return null;
  const context = new AudioContext();
  const source = context.createOscillator();
  const volume = context.createGain();
  const out = context.createMediaStreamDestination();
  source.frequency.value = TONE_HZ;
  volume.gain.value = QUIET;
  source.connect(volume).connect(out);
  source.start();
  void context.resume().catch(() => {});
  const [track] = out.stream.getAudioTracks();
  return track ? { track, stop: () => void context.close().catch(() => {}) } : null;
}
