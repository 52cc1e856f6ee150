// Where the cells of a record are, in shares of its image, and which one is at a place.

import type { Box, Shape, StoredRecord } from "./types";

export interface Cells {
  shape: Shape; // as laid out, which for views is not that of the record
  boxes: readonly Box[]; // in shares of the image
  kind: "grid" | "regions" | "views"; // regions overlap and leave gaps
  area: Box; // all of them
}

const WHOLE: Box = [0, 0, 1, 1];
const HEADINGS = 12; // of the 36 views of a viewpoint, for each elevation, the lowest first

export function gridCells([rows, columns]: Shape, area: Box = WHOLE): Cells {
  const [left, top, right, bottom] = area;
  const across = (column: number) => left + ((right - left) * column) / columns;
  const down = (row: number) => top + ((bottom - top) * row) / rows;
  const boxes: Box[] = [];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      boxes.push([across(column), down(row), across(column + 1), down(row + 1)]);
  return { shape: [rows, columns], boxes, kind: "grid", area };
}

export function cellsOf({ shape, boxes, crop }: StoredRecord): Cells | null {
  if (!shape) return null;
  if (boxes) return { shape, boxes, kind: "regions", area: WHOLE };
  if (shape[0] !== 3 * HEADINGS || shape[1] !== 1) return gridCells(shape, crop ?? WHOLE);
  const laidOut = gridCells([3, HEADINGS]);
  const upwards = [2, 1, 0].flatMap((row) =>
    laidOut.boxes.slice(row * HEADINGS, (row + 1) * HEADINGS),
  );
  return { ...laidOut, boxes: upwards, kind: "views" };
}

/** The row, from the top, and the column of a cell. */
export function placeOf({ shape: [rows, columns], kind }: Cells, cell: number): Shape {
  const row = Math.floor(cell / columns);
  return [kind === "views" ? rows - 1 - row : row, cell % columns];
}

/** The cell at a row and a column, or at the nearest that there are. */
function cellIn({ shape: [rows, columns], kind }: Cells, row: number, column: number): number {
  const down = Math.max(0, Math.min(rows - 1, row));
  return (
    (kind === "views" ? rows - 1 - down : down) * columns +
    Math.max(0, Math.min(columns - 1, column))
  );
}

const size = ([left, top, right, bottom]: Box): number => (right - left) * (bottom - top);
const middle = ([left, top, right, bottom]: Box): [number, number] => [
  (left + right) / 2,
  (top + bottom) / 2,
];

/** The cell at a place of the image; of regions the smallest one. */
export function cellAt(cells: Cells, x: number, y: number): number | null {
  let found: number | null = null;
  if (cells.kind !== "regions") {
    const [rows, columns] = cells.shape;
    const [left, top, right, bottom] = cells.area;
    const column = Math.floor(((x - left) / (right - left)) * columns);
    const row = Math.floor(((y - top) / (bottom - top)) * rows);
    if (row < 0 || row >= rows || column < 0 || column >= columns) return null;
    return cellIn(cells, row, column);
  }
  cells.boxes.forEach((box, cell) => {
    const inside = x >= box[0] && y >= box[1] && x <= box[2] && y <= box[3];
    const best = found === null ? undefined : cells.boxes[found];
    if (inside && (!best || size(box) < size(best))) found = cell;
  });
  return found;
}

/** The cell of `to` at the middle of a cell of `from`; null where it has none. */
export function sameCell(from: Cells, cell: number, to: Cells): number | null {
  const box = from.boxes[cell];
  if (!box) return null;
  return cellAt(to, ...middle(box));
}

/** The cell that a key leads to; null for keys that do not move. */
export function moved(cells: Cells, cell: number, key: string, far: boolean): number | null {
  const [rows, columns] = cells.shape;
  const [row, column] = placeOf(cells, cell);
  const list = cells.kind === "regions"; // which have an order, and no neighbours
  switch (key) {
    case "ArrowLeft":
      return list ? cellIn(cells, row - 1, 0) : cellIn(cells, row, column - 1);
    case "ArrowRight":
      return list ? cellIn(cells, row + 1, 0) : cellIn(cells, row, column + 1);
    case "ArrowUp":
      return cellIn(cells, row - 1, column);
    case "ArrowDown":
      return cellIn(cells, row + 1, column);
    case "Home":
      return cellIn(cells, far || list ? 0 : row, 0);
    case "End":
      return cellIn(cells, far || list ? rows - 1 : row, columns - 1);
    default:
      return null;
  }
}

/** The part of the image's plane that figures show: the image, and what grids cover beyond. */
function frame(areas: readonly Box[]): Box {
  const least = (k: 0 | 1) => Math.min(...areas.map((area) => area[k]));
  const most = (k: 2 | 3) => Math.max(...areas.map((area) => area[k]));
  return [least(0), least(1), most(2), most(3)];
}

/** A box as percentages of a frame. */
export function inFrame(box: Box, [left, top, right, bottom]: Box) {
  const x = (share: number) => `${(100 * share) / (right - left)}%`;
  const y = (share: number) => `${(100 * share) / (bottom - top)}%`;
  return {
    left: x(box[0] - left),
    top: y(box[1] - top),
    width: x(box[2] - box[0]),
    height: y(box[3] - box[1]),
  };
}

export function nameOf(cells: Cells, cell: number): string {
  const [row, column] = placeOf(cells, cell);
  if (cells.kind === "regions") return `region ${cell + 1}`;
  if (cells.kind === "views") return `heading ${column * 30}°, elevation ${(1 - row) * 30}°`;
  return `row ${row + 1}, column ${column + 1}`;
}

export const middleCell = ([rows, columns]: Shape): number =>
  Math.floor(rows / 2) * columns + Math.floor(columns / 2);

/** Width over height of a frame. Without the image's size, cells are taken to be square. */
function aspectOf(cells: Cells, frame: Box, size: readonly [number, number] | null): number {
  const shares = (frame[2] - frame[0]) / (frame[3] - frame[1]);
  const [high, wide] = cells.kind === "views" ? cells.shape : [1, 1]; // images in the frame
  if (size) return (shares * wide * size[0]) / (high * size[1]);
  if (cells.kind === "regions") return (shares * 4) / 3; // the most usual shape of photographs
  const [left, top, right, bottom] = cells.area;
  const [rows, columns] = cells.shape;
  return (shares * ((bottom - top) / rows)) / ((right - left) / columns);
}

/**
 * Where the cells of a record are, and a frame that holds them and the image, if it is shown.
 * `size` is that of the image; `areas` are those of other stores: figures have one scale.
 */
export function laidOut(
  record: StoredRecord,
  withImage: boolean,
  size: readonly [number, number] | null = record.image_size,
  areas: readonly Box[] = [],
) {
  const cells = cellsOf(record);
  if (!cells) return null;
  const image = withImage || cells.kind === "regions" ? [WHOLE] : [];
  const around = frame([...image, ...areas, cells.area]);
  return { cells, around, aspect: aspectOf(cells, around, size) };
}
