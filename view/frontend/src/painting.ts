// Colours of cells, and how they are drawn.

import type { Cells } from "./geometry";
import type { Box } from "./types";

export type Rgb = readonly [number, number, number];

/** What a figure shows of one record: colours of its cells, and the numbers behind them, if any. */
export interface Layer {
  rgb: readonly (Rgb | null)[];
  values: readonly (number | null)[] | null;
}

// Nine colours of viridis (Smith and van der Walt, 2015), whose lightness rises evenly, also for
// those who do not tell red from green.
const SCALE: readonly Rgb[] = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
];

export function scaled(value: number, low: number, high: number): Rgb {
  const share = high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0.5;
  const place = share * (SCALE.length - 1);
  const below = SCALE[Math.floor(place)] as Rgb;
  const above = SCALE[Math.ceil(place)] as Rgb;
  const part = place - Math.floor(place);
  const mixed = (k: 0 | 1 | 2) => Math.round(below[k] + (above[k] - below[k]) * part);
  return [mixed(0), mixed(1), mixed(2)];
}

export const css = ([red, green, blue]: Rgb): string => `rgb(${red} ${green} ${blue})`;
export const greyGradient = "linear-gradient(to right, #000, #fff)";
export const scaleGradient = `linear-gradient(to right, ${SCALE.map(css).join(", ")})`;

const LONG_SIDE = 720; // pixels of a canvas, which the browser scales to its place

/** The least and the greatest of some numbers, without padding; null where there are none. */
export function extent(
  values: readonly (readonly (number | null)[])[],
  masks: readonly (readonly boolean[] | null)[],
): [number, number] | null {
  let low = Infinity;
  let high = -Infinity;
  values.forEach((row, k) =>
    row.forEach((value, cell) => {
      if (value === null || masks[k]?.[cell] === false) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }),
  );
  return low <= high ? [low, high] : null;
}

function hatch(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  w: number,
  h: number,
): void {
  context.save();
  context.beginPath();
  context.rect(x, y, w, h);
  context.clip();
  context.fillStyle = "#8b94a055";
  context.fillRect(x, y, w, h);
  context.strokeStyle = "#8b94a0";
  context.lineWidth = 2;
  context.beginPath();
  const step = 12;
  const first = Math.floor((x + y) / step) * step; // lines go on from cell to cell
  for (let sum = first; sum <= x + w + y + h; sum += step) {
    context.moveTo(sum - y, y);
    context.lineTo(sum - y - h, y + h);
  }
  context.stroke();
  context.restore();
}

export function paint(
  canvas: HTMLCanvasElement,
  cells: Cells,
  frame: Box,
  aspect: number,
  layer: Layer | null,
  mask: readonly boolean[] | null,
): void {
  const width = Math.round(aspect >= 1 ? LONG_SIDE : LONG_SIDE * aspect);
  const height = Math.round(aspect >= 1 ? LONG_SIDE / aspect : LONG_SIDE);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  if (!context) return;
  context.clearRect(0, 0, width, height);
  const pixels = (box: Box): Box => {
    const x = (share: number) => Math.round(((share - frame[0]) / (frame[2] - frame[0])) * width);
    const y = (share: number) => Math.round(((share - frame[1]) / (frame[3] - frame[1])) * height);
    return [x(box[0]), y(box[1]), x(box[2]), y(box[3])];
  };
  const order = cells.boxes.map((_, cell) => cell);
  const areaOf = (cell: number) => {
    const [left, top, right, bottom] = cells.boxes[cell] as Box;
    return (right - left) * (bottom - top);
  };
  if (cells.kind === "regions") order.sort((a, b) => areaOf(b) - areaOf(a)); // small ones last
  for (const cell of order) {
    const [left, top, right, bottom] = pixels(cells.boxes[cell] as Box);
    const [w, h] = [right - left, bottom - top];
    const rgb = layer?.rgb[cell];
    if (mask?.[cell] === false) {
      hatch(context, left, top, w, h);
    } else if (cells.kind === "regions") {
      const [red, green, blue] = rgb ?? [139, 148, 160];
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${rgb ? 0.45 : 0.05})`;
      context.fillRect(left, top, w, h);
      context.strokeStyle = css([red, green, blue]);
      context.lineWidth = 4;
      context.strokeRect(left + 2, top + 2, Math.max(0, w - 4), Math.max(0, h - 4));
    } else {
      context.fillStyle = rgb ? css(rgb) : "#8b94a022";
      context.fillRect(left, top, w, h);
    }
  }
}
