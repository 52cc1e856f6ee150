// How the features of one image differ between the two stores.

import type { Address } from "./address";
import { extent } from "./painting";
import { short, To, Trouble } from "./parts";
import { call, useAnswer } from "./requests";
import type { Diff } from "./types";

export function Difference({ address }: { address: Address }) {
  const url = call("diff", { id: address.id });
  const { value, problem } = useAnswer<Diff>(url);
  if (problem) return <Trouble problem={problem} url={url} about="Difference" />;
  if (!value) return <p class="difference faint">…</p>;
  const ends = value.cosine && extent([value.cosine], [null]);
  return (
    <p class="difference">
      {value.same ? "Both stores have the same features of this image." : "The stores differ here"}
      {!value.same && value.why && `: ${value.why}`}
      {value.largest !== null && !value.same && `, by ${short(value.largest)} at most`}
      {ends && !value.same && (
        <>
          {"; cosine of the cells "}
          <To address={address} change={{ show: "diff" }}>{short(ends[0])} to {short(ends[1])}</To>
        </>
      )}
    </p>
  );
}
