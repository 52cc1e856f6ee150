// What the server answers. Cells are numbered row by row from the top left; shares are of the
// sides of the image.

export type Shape = [rows: number, columns: number];
export type Box = [left: number, top: number, right: number, bottom: number];

export interface StoreInfo {
  key: string;
  location: string;
  digest: string;
  sentence: string;
  model: string;
  recipe: string;
  dim: number;
  records: number;
  statuses: Record<string, number>;
  shapes: { shape: Shape; count: number }[];
  regions: boolean;
  vectors: boolean;
  views: boolean;
  text: { can: boolean; why: string };
}

export interface RunInfo {
  key: string;
  task: string;
  folder: string;
  store: string;
  splits: string[];
}

export interface Session {
  version: string;
  stores: StoreInfo[];
  runs: RunInfo[];
  images: boolean;
  static?: boolean; // a sample without a server
}

export interface IdRow {
  id: string;
  status: string;
  reason: string | null;
  shape: Shape | null;
}

export interface IdPage {
  total: number;
  start: number;
  ids: IdRow[];
}

export interface StoredRecord {
  id: string;
  status: string;
  reason: string | null;
  shape: Shape | null;
  dim: number;
  image_size: [width: number, height: number] | null;
  mask: boolean[] | null;
  boxes: Box[] | null;
  norms: (number | null)[]; // null where the features are not finite
  has_image: boolean;
  image?: string | null; // where it is, of a static page
  upright: boolean; // extracted as its EXIF orientation says
  crop: Box | null;
}

export interface Colours {
  rgb: [number, number, number][];
  range: [low: number, high: number] | null;
  explained: [number, number, number] | null;
}

export interface Similar {
  similar: Record<string, (number | null)[]>;
  missing: Record<string, string>;
}

export interface Scanned {
  images: number;
  of: number;
  how: "sample" | "all";
}

export interface NearestCells {
  scanned: Scanned;
  cells: { id: string; cell: number; similarity: number; shape: Shape }[];
}

export interface NearestImages {
  by: string;
  scanned: Scanned;
  images: { id: string; similarity: number }[];
}

export interface Heat {
  heat: (number | null)[];
  says: string;
}

export interface Answered {
  answers: { answer: string; score: number }[];
  attention: number[][] | null;
}

export interface Captioned {
  words: { word: string; attention: number[] | null }[];
}

export interface Entailed {
  chances: Record<string, number>;
  attention: number[][] | null;
}

export interface Compared {
  n: number;
  differ: number;
  examples: {
    example: string | number;
    id: string | null;
    text: string;
    scores: [number, number];
  }[];
}

export interface Diff {
  same: boolean;
  shape: [Shape | null, Shape | null];
  largest: number | null;
  relative_error: number | null;
  cosine: (number | null)[] | null;
  why: string | null;
}
