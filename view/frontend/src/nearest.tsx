// The cells of the store that are nearest to the chosen one, and the nearest images.

import { go, opened, PINS, type Address } from "./address";
import { gridCells, nameOf } from "./geometry";
import { Bar, Id, To, Trouble, useSaid, whole } from "./parts";
import { call, useAnswer } from "./requests";
import { orientation, Scene } from "./scene";
import type {
  Colours, NearestCells, NearestImages, Scanned, Session, Shape, StoredRecord, StoreInfo,
} from "./types";

const COUNT = 12;

interface Props {
  session: Session;
  store: StoreInfo;
  address: Address;
}

export function Nearest(props: Props) {
  if (!props.address.id) return null;
  return (
    <>
      <Cells {...props} />
      <Images {...props} />
    </>
  );
}

function ScannedOf({ scanned }: { scanned: Scanned }) {
  const all = scanned.how === "all" || scanned.images === scanned.of;
  return (
    <p class="faint">
      {all ? `Exact, over all ${whole(scanned.of)} images`
        : `Exact, over a sample of ${whole(scanned.images)} of ${whole(scanned.of)} images`}
    </p>
  );
}

function Cells({ session, store, address }: Props) {
  const { id, cell } = address;
  const url = cell === null ? null
    : call("nearest/cells", { store: store.key, id, cell, count: COUNT });
  const { value, problem, loading } = useAnswer<NearestCells>(url);
  useSaid(value ? `${value.cells.length} nearest cells` : "");
  return (
    <section aria-labelledby="nearest-cells">
      <h2 id="nearest-cells">Nearest cells</h2>
      {url === null && <p class="faint">Click a cell of the grid, or press Enter on one.</p>}
      {problem && url && <Trouble problem={problem} url={url} />}
      {loading && <p class="faint">…</p>}
      {value && <ScannedOf scanned={value.scanned} />}
      <ol class="near">
        {value?.cells.map((found) => (
          <li key={`${found.id} ${found.cell}`}>
            <Thumbnail session={session} store={store} id={found.id} shape={found.shape} cell={found.cell} />
            <div>
              <To address={address} change={{ id: found.id, cell: found.cell }} title={found.id}>
                <Id text={found.id} />
              </To>
              <span class="faint">{nameOf(gridCells(found.shape), found.cell)}</span>
              <Bar share={found.similarity} text={found.similarity.toFixed(2)} />
            </div>
            <PinButton address={address} id={found.id} />
          </li>
        ))}
      </ol>
    </section>
  );
}

function Images({ session, store, address }: Props) {
  const url = call("nearest/images", { store: store.key, id: address.id, count: COUNT });
  const { value, problem, loading } = useAnswer<NearestImages>(url);
  return (
    <section aria-labelledby="nearest-images">
      <h2 id="nearest-images">Nearest images {value && <span class="faint">by {value.by}</span>}</h2>
      {problem && <Trouble problem={problem} url={url} />}
      {loading && <p class="faint">…</p>}
      {value && <ScannedOf scanned={value.scanned} />}
      <ol class="near">
        {value?.images.map((found) => (
          <li key={found.id}>
            <Thumbnail session={session} store={store} id={found.id} shape={null} cell={null} />
            <div>
              <To address={address} change={opened(address, found.id)} title={found.id}>
                <Id text={found.id} />
              </To>
              <Bar share={found.similarity} text={found.similarity.toFixed(2)} />
            </div>
            <PinButton address={address} id={found.id} />
          </li>
        ))}
      </ol>
    </section>
  );
}

function PinButton({ address, id }: { address: Address; id: string }) {
  const pinned = address.pins.includes(id);
  if (id === address.id) return null;
  return (
    <button type="button" class="quiet" aria-label={`Pin ${id}`} aria-pressed={pinned}
      disabled={!pinned && address.pins.length >= PINS}
      onClick={() => go({ pins: pinned ? address.pins.filter((pin) => pin !== id) : [...address.pins, id] })}>
      {pinned ? "✓" : "+"}
    </button>
  );
}

/** A small image where there is one, else the colours of its grid, with a cell outlined. */
function Thumbnail({ session, store, id, shape, cell }: {
  session: Session; store: StoreInfo; id: string; shape: Shape | null; cell: number | null;
}) {
  const record = useAnswer<StoredRecord>(call("record", { store: store.key, id })).value;
  const drawn = useAnswer<Colours>(call("colours", { store: store.key, id, show: "pca" })).value;
  const size = shape ?? record?.shape;
  return (
    <span class={`thumbnails ${session.images ? "two" : ""}`} aria-hidden="true">
      {session.images && record?.has_image && (
        <img src={call("image", { store: store.key, id })} alt="" loading="lazy"
          style={orientation(record.upright)} />
      )}
      {size && !record?.boxes && (
        <Scene name={id} cells={gridCells(size)} frame={[0, 0, 1, 1]} aspect={size[1] / size[0]}
          layer={{ rgb: drawn?.rgb ?? [], values: null }} mask={record?.mask ?? null} image={null}
          opacity={1} pointed={null} chosen={cell} onPoint={() => undefined}
          onChoose={(one) => go({ id, cell: one })} />
      )}
    </span>
  );
}
