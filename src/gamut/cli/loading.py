"""The arguments that say which model a command runs, and how it is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face directory, or hf:org/name[@revision].")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:N or mps; without it, the best that there is.", show_default=False)
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; without it, as the weights are stored.", show_default=False)
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read pytorch_model.bin where there is nothing safer. It can run code.")
]
