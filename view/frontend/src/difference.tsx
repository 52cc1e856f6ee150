// How the features of one image differ between the two stores.

import type { Address } from "./address";
import { extent } from "./painting";
import { short, To, Trouble } from "./parts";
import { call, useAnswer, useAnswers } from "./requests";
import type { Diff, Session, StoredRecord, StoreInfo } from "./types";

/** Whether both are shown whose difference the server knows: those of the first two stores. */
export function comparable(
  { stores }: Session,
  store: StoreInfo,
  beside: StoreInfo | null,
): boolean {
  return beside !== null && [store, beside].every((one) => stores.indexOf(one) < 2);
}

export function Difference({
  stores,
  address,
}: {
  stores: readonly StoreInfo[];
  address: Address;
}) {
  const records = useAnswers<StoredRecord>(
    stores.map(({ key }) => call("record", { store: key, id: address.id })),
  );
  const both = records.every(({ value }) => value?.shape); // else the figures say what is wrong
  const url = call("diff", { id: address.id });
  const { value, problem } = useAnswer<Diff>(both ? url : null);
  if (!both) return null;
  if (problem) return <Trouble problem={problem} url={url} about="Difference" />;
  if (!value) return <p class="difference faint">…</p>;
  if (value.same)
    return <p class="difference">Both stores have the same features of this image.</p>;
  const ends = value.cosine && extent([value.cosine], [null]);
  return (
    <p class="difference">
      {value.why ? `The features cannot be compared: ${value.why}.` : "The stores differ"}
      {value.largest !== null && ` by ${short(value.largest)} at most`}
      {value.relative_error !== null && `, relative error ${short(value.relative_error)}`}
      {ends && (
        <>
          {", cosine of the cells "}
          <To address={address} change={{ show: "diff" }}>
            {short(ends[0])} to {short(ends[1])}
          </To>
          .
        </>
      )}
    </p>
  );
}
