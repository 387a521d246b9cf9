// From a picture to the pixels that the model takes. A canvas resizes in its own way, so that the resizing is done here,
// as PIL does it for the pipelines: bicubic, over an area that grows with the reduction, with 8-bit values in between.

const FRACTION_BITS = 22; // of the weights, which are integers

/** The pixels of a file or of an <img>, with their transparent parts on white: {width, height, data: RGBA}. */
export async function decode(picture) {
  const bitmap = await createImageBitmap(picture, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Resize an RGBA picture to size x size pixels; returns its red, green and blue values, row by row. */
export function resize({ width, height, data }, size) {
  const result = new Uint8ClampedArray(size * size * 3);
  if (height - size > 2 * Math.max(width - size, 0)) {
    // Pillow 13 starts with the columns of tall pictures
    const low = new Uint8ClampedArray(width * size * 3);
    resample(data, [width, 4], [height, 4 * width], low, [3, 3 * width], size);
    resample(low, [size, 3 * width], [width, 3], result, [3 * size, 3], size);
  } else {
    const narrow = new Uint8ClampedArray(size * height * 3);
    resample(data, [height, 4 * width], [width, 4], narrow, [3 * size, 3], size);
    resample(narrow, [size, 3], [height, 3 * size], result, [3, 3 * size], size);
  }
  return result;
}

/**
 * Resample all rows, or all columns, of a picture to `size` pixels: `lines` of them, each with a number of `pixels`. The
 * steps are the distances in the arrays from one line, and from one pixel of a line, to the next.
 */
function resample(source, [lines, lineStep], [pixels, step], result, [resultLineStep, resultStep], size) {
  weights(pixels, size).forEach(({ first, values }, position) => {
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (FRACTION_BITS - 1);
        let from = line * lineStep + first * step + channel;
        for (const weight of values) {
          sum += weight * source[from];
          from += step;
        }
        result[line * resultLineStep + position * resultStep + channel] = Math.floor(sum / 2 ** FRACTION_BITS);
      }
    }
  });
}

/** For each pixel of the result, the first pixel that it is made from, and the weights of this one and those after it. */
function weights(pixels, size) {
  const scale = pixels / size;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: size }, (_, position) => {
    const center = (position + 0.5) * scale;
    const first = Math.max(Math.floor(center - 2 * stretch + 0.5), 0);
    const end = Math.min(Math.floor(center + 2 * stretch + 0.5), pixels);
    const values = Array.from({ length: end - first }, (_, index) => cubic((index + first - center + 0.5) * (1 / stretch)));
    const total = values.reduce((sum, value) => sum + value, 0);
    return { first, values: values.map((value) => rounded((value / total) * 2 ** FRACTION_BITS)) };
  });
}

/** Keys' cubic kernel with a = -0.5. */
function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

/** The nearest integer, and of two the one further from 0. */
function rounded(value) {
  return Math.sign(value) * Math.floor(Math.abs(value) + 0.5);
}

/** What the model takes: one channel after the other, normalized by the means and deviations of its processor. */
export function normalize(values, mean, deviation) {
  const count = values.length / 3;
  return Float32Array.from({ length: values.length }, (_, index) => {
    const channel = Math.floor(index / count);
    return (values[(index % count) * 3 + channel] / 255 - mean[channel]) / deviation[channel];
  });
}
