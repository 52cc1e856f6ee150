// The bar that says what the grids show.

import { go, type Address } from "./address";
import { comparable } from "./difference";
import { middleCell } from "./geometry";
import { Ask, whole } from "./parts";
import { call, useAnswer } from "./requests";
import { parseShow, type Kind } from "./shown";
import type { Session, StoredRecord, StoreInfo } from "./types";

interface Props {
  session: Session;
  store: StoreInfo;
  beside: StoreInfo | null;
  address: Address;
}

const NAMES: Record<Kind, string> = {
  pca: "PCA",
  norms: "Norms",
  channel: "Channel",
  similar: "Similarity",
  text: "Text",
  diff: "Difference",
  attention: "Attention",
};

export function Choose({ session, store, beside, address }: Props) {
  const choice = parseShow(address.show);
  const url = address.id ? call("record", { store: store.key, id: address.id }) : null;
  const record = useAnswer<StoredRecord>(url).value;
  const texts = [store, ...(beside ? [beside] : [])].map((one) => one.text);
  const canText = texts.some((text) => text.can);
  const kinds: Kind[] = ["pca", "norms", "channel", "similar", "text"];
  if (comparable(session, store, beside)) kinds.push("diff");
  if (choice.kind === "attention") kinds.push("attention");

  const pick = (kind: Kind) => {
    if (kind === "channel") go({ show: `channel:${choice.channel}` });
    else if (kind === "similar") {
      const cell = address.cell ?? (record?.shape ? middleCell(record.shape) : null);
      go({ show: kind, cell });
    } else if (kind !== "attention") go({ show: kind === "pca" ? "" : kind });
  };
  return (
    <div class="choose">
      <fieldset class="segments">
        <legend class="unseen">What the grids show</legend>
        {kinds.map((kind) => {
          const off = kind === "text" && !canText;
          return (
            <label key={kind} title={off ? texts[0]?.why : undefined}>
              <input
                type="radio"
                name="show"
                checked={choice.kind === kind}
                disabled={off}
                onChange={() => pick(kind)}
              />
              <span>{NAMES[kind]}</span>
            </label>
          );
        })}
      </fieldset>
      {choice.kind === "channel" && (
        <label class="channel">
          <span class="faint">of {whole(store.dim)}</span>
          <input
            type="number"
            min={0}
            max={store.dim - 1}
            value={choice.channel}
            aria-label="Channel"
            onChange={(event) => {
              const number = Math.trunc(Number(event.currentTarget.value)) || 0;
              go({ show: `channel:${Math.max(0, Math.min(store.dim - 1, number))}` }, "refine");
            }}
          />
        </label>
      )}
      {choice.kind === "text" && canText && (
        <Ask
          label="Text"
          button="Show"
          value={address.text}
          placeholder="a red cube"
          onAsk={(text) => go({ text })}
        />
      )}
      {session.images && (
        <label class="over">
          <input
            type="checkbox"
            checked={address.over !== null}
            onChange={(event) => go({ over: event.currentTarget.checked ? 60 : null })}
          />
          <span>Over the image</span>
          {address.over !== null && (
            <input
              type="range"
              min={0}
              max={100}
              step={5}
              value={address.over}
              aria-label="Opacity of the grid"
              onInput={(event) => go({ over: Number(event.currentTarget.value) }, "refine")}
            />
          )}
        </label>
      )}
    </div>
  );
}
