import { forward } from "@/sluiceway";

// `useChat` asks here. Type, tokens and errors are Sluiceway's own, untouched.
export const POST = forward;
