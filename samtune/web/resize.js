// Pillow's bilinear resampling, number for number (src/libImaging/Resample.c): with it a picture
// reaches the encoder as it does in samtune. What a canvas does when it scales depends on the browser.

const PRECISION_BITS = 32 - 8 - 2;

/** Size [height, width] of a picture whose long side is scaled to `side`; samtune's input_size. */
export function inputSize(height, width, side) {
  const scale = side / Math.max(height, width);
  return [height, width].map((length) => Math.max(1, Math.trunc(length * scale + 0.5)));
}

/** For each of `after` pixels: the first of `before` pixels it is made of, how many, and weights. */
function coefficients(before, after) {
  const scale = before / after;
  const support = Math.max(scale, 1); // the triangle filter's half width
  const most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(after);
  const counts = new Int32Array(after);
  const weights = new Int32Array(after * most);
  for (let pixel = 0; pixel < after; pixel++) {
    const center = (pixel + 0.5) * scale;
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const count = Math.min(Math.trunc(center + support + 0.5), before) - start;
    const shares = Array.from({ length: count }, (_, i) =>
      Math.max(1 - Math.abs((i + start - center + 0.5) * (1 / support)), 0),
    );
    const sum = shares.reduce((total, share) => total + share, 0);
    shares.forEach((share, i) => {
      weights[pixel * most + i] = Math.trunc(0.5 + (share / sum) * 2 ** PRECISION_BITS);
    });
    starts[pixel] = start;
    counts[pixel] = count;
  }
  return { starts, counts, weights, most };
}

/**
 * Resample along one axis.
 *
 * `from` has `lines` lines of `before` pixels, three channels each; pixels of a line are `step`
 * numbers apart, lines `stride`. Returns the same with `after` pixels, lines or columns as they were.
 */
function resample(from, channels, lines, before, after, horizontal) {
  const { starts, counts, weights, most } = coefficients(before, after);
  const to = new Uint8Array(lines * after * 3);
  const [step, stride] = horizontal ? [channels, before * channels] : [lines * channels, channels];
  const [toStep, toStride] = horizontal ? [3, after * 3] : [lines * 3, 3];
  for (let line = 0; line < lines; line++) {
    for (let pixel = 0; pixel < after; pixel++) {
      const start = line * stride + starts[pixel] * step;
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let i = 0; i < counts[pixel]; i++) {
          sum += from[start + i * step + channel] * weights[pixel * most + i];
        }
        const value = sum >> PRECISION_BITS;
        to[line * toStride + pixel * toStep + channel] = value > 255 ? 255 : value;
      }
    }
  }
  return to;
}

/**
 * Scale a picture.
 *
 * @param {Uint8Array | Uint8ClampedArray} rgba height × width × 4 numbers
 * @returns {Uint8Array} newHeight × newWidth × 3 numbers, RGB
 */
export function resize(rgba, height, width, newHeight, newWidth) {
  // Without a change of length the weights are 1, and the pass only drops the fourth channel.
  const narrow = resample(rgba, 4, height, width, newWidth, true);
  return newHeight === height ? narrow : resample(narrow, 3, newWidth, height, newHeight, false);
}
