// Where the cells of a record are, in shares of its image, and which one is at a place.

import type { Box, Shape, StoredRecord } from "./types";

export interface Cells {
  shape: Shape;
  boxes: readonly Box[]; // in shares of the image
  regions: boolean; // boxes that overlap and leave gaps, rather than a grid
  area: Box; // all of them
}

const WHOLE: Box = [0, 0, 1, 1];

export function gridCells([rows, columns]: Shape, area: Box = WHOLE): Cells {
  const [left, top, right, bottom] = area;
  const across = (column: number) => left + ((right - left) * column) / columns;
  const down = (row: number) => top + ((bottom - top) * row) / rows;
  const boxes: Box[] = [];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      boxes.push([across(column), down(row), across(column + 1), down(row + 1)]);
  return { shape: [rows, columns], boxes, regions: false, area };
}

export function cellsOf(record: StoredRecord): Cells | null {
  if (!record.shape) return null;
  if (record.boxes)
    return { shape: record.shape, boxes: record.boxes, regions: true, area: WHOLE };
  return gridCells(record.shape, record.crop ?? WHOLE);
}

const size = ([left, top, right, bottom]: Box): number => (right - left) * (bottom - top);
const middle = ([left, top, right, bottom]: Box): [number, number] =>
  [(left + right) / 2, (top + bottom) / 2];

/** The cell at a place of the image; of regions the smallest one. */
export function cellAt(cells: Cells, x: number, y: number): number | null {
  let found: number | null = null;
  if (!cells.regions) {
    const [rows, columns] = cells.shape;
    const [left, top, right, bottom] = cells.area;
    const column = Math.floor(((x - left) / (right - left)) * columns);
    const row = Math.floor(((y - top) / (bottom - top)) * rows);
    if (row < 0 || row >= rows || column < 0 || column >= columns) return null;
    return row * columns + column;
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
  const row = Math.floor(cell / columns);
  const column = cell % columns;
  const at = (r: number, c: number) =>
    Math.max(0, Math.min(rows - 1, r)) * columns + Math.max(0, Math.min(columns - 1, c));
  switch (key) {
    case "ArrowLeft": return cells.regions ? at(row - 1, 0) : at(row, column - 1);
    case "ArrowRight": return cells.regions ? at(row + 1, 0) : at(row, column + 1);
    case "ArrowUp": return at(row - 1, column);
    case "ArrowDown": return at(row + 1, column);
    case "Home": return at(far || cells.regions ? 0 : row, 0);
    case "End": return at(far || cells.regions ? rows - 1 : row, columns - 1);
    default: return null;
  }
}

/** The part of the image's plane that a figure shows: the image, and what the grid covers beyond. */
export function frame(areas: readonly Box[]): Box {
  const least = (k: 0 | 1) => Math.min(...areas.map((area) => area[k]));
  const most = (k: 2 | 3) => Math.max(...areas.map((area) => area[k]));
  return [least(0), least(1), most(2), most(3)];
}

/** A box as percentages of a frame. */
export function inFrame(box: Box, [left, top, right, bottom]: Box) {
  const x = (share: number) => `${(100 * share) / (right - left)}%`;
  const y = (share: number) => `${(100 * share) / (bottom - top)}%`;
  return { left: x(box[0] - left), top: y(box[1] - top), width: x(box[2] - box[0]),
    height: y(box[3] - box[1]) };
}

export function nameOf(cells: Cells, cell: number): string {
  if (cells.regions) return `region ${cell + 1}`;
  const columns = cells.shape[1];
  return `row ${Math.floor(cell / columns) + 1}, column ${(cell % columns) + 1}`;
}

export const middleCell = ([rows, columns]: Shape): number =>
  Math.floor(rows / 2) * columns + Math.floor(columns / 2);

/** Width over height of a frame. Without the image's size, cells are taken to be square. */
export function aspectOf(cells: Cells, frame: Box, size: readonly [number, number] | null): number {
  const shares = (frame[2] - frame[0]) / (frame[3] - frame[1]);
  if (size) return (shares * size[0]) / size[1];
  if (cells.regions) return (shares * 4) / 3; // the most usual shape of photographs
  const [left, top, right, bottom] = cells.area;
  const [rows, columns] = cells.shape;
  return (shares * ((bottom - top) / rows)) / ((right - left) / columns);
}
