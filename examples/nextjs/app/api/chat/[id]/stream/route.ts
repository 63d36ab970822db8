import { forward } from "@/sluiceway";

// The answer that goes on in this chat, from its beginning; 204 where there is none.
export const GET = forward;

// Its end: at the provider too.
export const DELETE = forward;
