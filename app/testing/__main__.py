"""`python -m sluiceway.testing --port 9000`: the fake provider as a process of its own, until Ctrl-C."""

import argparse
import contextlib
import threading

from .behaviour import grammar
from .server import FakeProvider


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sluiceway.testing",
        description="A fake LLM provider. The model's name chooses its behaviour, for instance fake-n30-i20-stall5:",
        epilog=grammar(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one")
    parser.add_argument("--api-key", help="refuse every other key with a 401 (default: take any)")
    options = parser.parse_args()

    with (
        contextlib.suppress(KeyboardInterrupt),  # around everything: Ctrl-C may come before the first line is out
        FakeProvider(host=options.host, port=options.port, api_key=options.api_key) as provider,
    ):
        print(f"fake provider on {provider.url}, numbers at {provider.url}/stats\n")
        print("\n".join(f"export {name}={value}" for name, value in provider.env.items()))
        print(f"\nmodel names: any word, then parts split by '-', as in fake-n30-i20-stall5\n\n{grammar()}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
