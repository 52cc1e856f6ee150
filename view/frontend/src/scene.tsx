// One figure: an image, the grid of a record, or both, with cells to point at and to choose.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { cellAt, inFrame, moved, nameOf, placeOf, type Cells } from "./geometry";
import { paint, type Layer } from "./painting";
import { say } from "./parts";
import type { Box } from "./types";

interface Props {
  name: string;
  cells: Cells;
  frame: Box; // the part of the image's plane that is shown
  aspect: number; // its width over its height
  layer: Layer | null; // null draws no grid
  mask: readonly boolean[] | null;
  image: string | null; // its address
  upright?: boolean; // turned as its EXIF orientation says
  opacity: number; // of the grid
  pointed: number | null;
  chosen: number | null;
  describe?: (cell: number) => string; // with it, the keyboard can go through the cells
  onPoint: (cell: number | null) => void;
  onChoose: (cell: number | null) => void;
  onImageFault?: () => void;
  onImageSize?: (size: [width: number, height: number]) => void;
}

export const orientation = (upright = true) => ({
  imageOrientation: upright ? "from-image" : "none",
});

export function Scene(props: Props) {
  const { cells, frame, aspect, layer, mask, image, opacity, pointed, chosen, onPoint, onChoose } =
    props;
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    if (canvas.current) paint(canvas.current, cells, frame, aspect, layer, mask);
  }, [cells, frame.join(), aspect, layer, mask]);

  const under = (event: PointerEvent | MouseEvent): number | null => {
    const place = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const x = (event.clientX - place.left) / place.width;
    const y = (event.clientY - place.top) / place.height;
    const cell = cellAt(
      cells,
      frame[0] + x * (frame[2] - frame[0]),
      frame[1] + y * (frame[3] - frame[1]),
    );
    return cell !== null && mask?.[cell] === false ? null : cell;
  };
  const click = (event: MouseEvent) => {
    const cell = under(event);
    if (cell !== null) onChoose(cell);
  };
  const mark = (cell: number | null, kind: string) => {
    const box = cell === null ? undefined : cells.boxes[cell];
    return box && <div class={`mark ${kind}`} style={inFrame(box, frame)} />;
  };
  const style = { aspectRatio: String(aspect), maxWidth: `calc(var(--tallest) * ${aspect})` };
  return (
    <div
      class="scene"
      style={style}
      onPointerMove={(event) => onPoint(under(event))}
      onPointerLeave={() => onPoint(null)}
      onClick={click}
    >
      {image && (
        <img
          src={image}
          alt={`Image ${props.name}`}
          draggable={false}
          style={{ ...inFrame([0, 0, 1, 1], frame), ...orientation(props.upright) }}
          onLoad={({ currentTarget: { naturalWidth, naturalHeight } }) =>
            props.onImageSize?.([naturalWidth, naturalHeight])
          }
          onError={() => props.onImageFault?.()}
        />
      )}
      {layer && <canvas ref={canvas} style={{ opacity: String(opacity) }} aria-hidden="true" />}
      {mark(chosen, "chosen")}
      {mark(pointed, "pointed")}
      {props.describe && <Keys {...props} describe={props.describe} />}
    </div>
  );
}

/** The cells for keyboard and screen reader: a grid of which one cell at a time is in the page. */
function Keys({
  name,
  cells,
  frame,
  chosen,
  describe,
  onPoint,
  onChoose,
}: Props & {
  describe: (cell: number) => string;
}) {
  const [at, setAt] = useState(chosen ?? 0);
  const [rows, columns] = cells.shape;
  const cell = at < cells.boxes.length ? at : 0;
  useEffect(() => {
    if (chosen !== null) setAt(chosen);
  }, [chosen]);

  const press = (event: KeyboardEvent) => {
    const next = moved(cells, cell, event.key, event.ctrlKey);
    if (next !== null) {
      event.preventDefault();
      setAt(next);
      onPoint(next);
      say(`${nameOf(cells, next)}${describe(next)}`); // the focus stays where it is
    } else if (event.key === "Escape") onChoose(null);
  };
  const choose = (event: MouseEvent) => {
    event.stopPropagation(); // a key's click has no place in the scene
    onChoose(cell);
  };
  const box = cells.boxes[cell];
  if (!box) return null;
  const [row, column] = placeOf(cells, cell);
  return (
    <div
      class="keys"
      role="grid"
      aria-label={`Cells of ${name}, ${rows} rows, ${columns} columns`}
      aria-rowcount={rows}
      aria-colcount={columns}
    >
      <div role="row" aria-rowindex={row + 1}>
        <button
          type="button"
          role="gridcell"
          style={inFrame(box, frame)}
          aria-colindex={column + 1}
          aria-selected={cell === chosen}
          aria-label={`${nameOf(cells, cell)}${describe(cell)}`}
          onKeyDown={press}
          onClick={choose}
          onFocus={() => onPoint(cell)}
          onBlur={() => onPoint(null)}
        />
      </div>
    </div>
  );
}
