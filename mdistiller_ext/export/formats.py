"""Formats of exported students: how each is made, written, opened again, and opened by a user's code.

A program (`Onnx`, `TorchExport`) contains the network's graph and needs no code of this project. Weights (`StateDict`,
`Safetensors`) are loaded into a network of `mdistiller_ext.models`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import os
import re
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .. import extras
from ..errors import UnknownNameError, UserError, did_you_mean

if TYPE_CHECKING:  # torch takes over a second to import, and --help names the formats
    from torch import Tensor, nn

    from ..deployment import Classifier, DeployedStudent

INPUT, OUTPUT = "images", "logits"
"""Names of input and output of an exported program"""
DESCRIPTION_FILE = "description.json"
"""Name of the description within a .pt2 file"""


class ExportError(UserError, RuntimeError):
    """A student that cannot be exported in a format, or whose exported file does not predict as the student."""


class Format(ABC):
    """A format of files.

    Attributes:
        suffix: of the files' names.
        packages: packages of the extra ``[export]`` that it needs.
    """

    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def convert(self, classifier: Classifier, images: Tensor, opset: int | None) -> Any:
        """What `save` writes, of a classifier for batches of any number of images of the size of ``images``."""

    def opset(self, content: Any) -> int | None:
        """Version of ONNX's operators in what `convert` returned; None for other formats."""
        return None

    @abstractmethod
    def save(self, content: Any, file: Path, description: Mapping[str, Any]) -> None:
        """Write what `convert` returned, with a description where the format has a place for it."""

    @abstractmethod
    def open(self, file: Path, student: DeployedStudent) -> Callable[[Tensor], Tensor]:
        """Read a file; returns the function from images to logits."""

    @abstractmethod
    def lines(self, student: DeployedStudent, plugins: list[str]) -> list[str]:
        """Lines of Python from a file's path, ``path``, and numpy's ``images`` to ``logits``."""


class Onnx(Format):
    """ONNX, by the exporter that is torch's default: from torch 2.9 that of torch.export's programs, before by TorchScript."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def convert(self, classifier: Classifier, images: Tensor, opset: int | None) -> Any:
        import torch

        options: dict[str, Any] = {"opset_version": opset, "input_names": [INPUT], "output_names": [OUTPUT], "verbose": False}
        if inspect.signature(torch.onnx.export).parameters["dynamo"].default:
            shapes = {INPUT: {0: "batch"}}
            program = torch.onnx.export(_traced(classifier, images), dynamo=True, dynamic_shapes=shapes, **options)
            assert program is not None
            model = program.model_proto
        else:
            axes = {name: {0: "batch"} for name in (INPUT, OUTPUT)}
            with tempfile.TemporaryDirectory() as folder, _without_stdout():
                file = Path(folder, "model.onnx")
                torch.onnx.export(classifier, (images,), file, dynamo=False, dynamic_axes=axes, **options)
                model = extras.optional("onnx", extra="export").load(file)
        if opset not in (None, self.opset(model)):
            raise ExportError(f"torch.onnx converts this network to opset {self.opset(model)}, not {opset} (--opset)")
        return model

    def opset(self, content: Any) -> int | None:
        return next(int(each.version) for each in content.opset_import if not each.domain)

    def save(self, content: Any, file: Path, description: Mapping[str, Any]) -> None:
        onnx = extras.optional("onnx", extra="export")
        onnx.helper.set_model_props(content, as_strings(description))
        onnx.save(content, file)

    def open(self, file: Path, student: DeployedStudent) -> Callable[[Tensor], Tensor]:
        import torch

        runtime = extras.optional("onnxruntime", extra="export")
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    def lines(self, student: DeployedStudent, plugins: list[str]) -> list[str]:
        return [
            "import onnxruntime",
            "session = onnxruntime.InferenceSession(path)",
            f'logits = session.run(["{OUTPUT}"], {{"{INPUT}": images}})[0]',
        ]


class TorchExport(Format):
    """A program of torch.export, which runs without the code of the network."""

    suffix = ".pt2"

    def convert(self, classifier: Classifier, images: Tensor, opset: int | None) -> Any:
        return _traced(classifier, images)

    def save(self, content: Any, file: Path, description: Mapping[str, Any]) -> None:
        import torch

        torch.export.save(content, file, extra_files={DESCRIPTION_FILE: json.dumps(description)})

    def open(self, file: Path, student: DeployedStudent) -> Callable[[Tensor], Tensor]:
        import torch

        module: nn.Module = torch.export.load(file).module()
        return module

    def lines(self, student: DeployedStudent, plugins: list[str]) -> list[str]:
        return [
            "import torch",
            "student = torch.export.load(path).module()",
            "logits = student(torch.from_numpy(images))",
        ]


class StateDict(Format):
    """A state_dict under ``model``, as mdistiller saves; ``description`` is beside it."""

    suffix = ".pth"

    def convert(self, classifier: Classifier, images: Tensor, opset: int | None) -> Any:
        return classifier.network.state_dict()

    def save(self, content: Any, file: Path, description: Mapping[str, Any]) -> None:
        from ..checkpoint import save

        save(file, {"model": content, "description": dict(description)})

    def read(self, file: Path) -> Any:
        """The content of a file, for `weights.load_state_dict`."""
        from ..checkpoint import load

        return load(file)

    def open(self, file: Path, student: DeployedStudent) -> Callable[[Tensor], Tensor]:
        from ..deployment import Classifier
        from ..networks import create_network
        from ..weights import load_state_dict

        network = create_network(student.config, "STUDENT", len(student.classes), student.preprocessing.crop)
        load_state_dict(network, self.read(file), file)
        return Classifier(network).eval()

    reader: ClassVar = ("from mdistiller_ext.checkpoint import load", "load(path)")
    """Lines of Python like `read`: the import and the call"""

    def lines(self, student: DeployedStudent, plugins: list[str]) -> list[str]:
        settings, size = student.config, student.preprocessing.crop
        import_reader, read = self.reader
        loaded = [f"load_plugin({plugin!r})" for plugin in plugins]
        features = list(settings.DISTILLER.STUDENT_FEATURES)
        return [
            *(["from mdistiller_ext.plugins import load_plugin", *loaded] if loaded else []),
            "import torch",
            import_reader,
            "from mdistiller_ext.models import create_model",
            *(["from mdistiller_ext.models.features import return_modules"] if features else []),
            "from mdistiller_ext.weights import load_state_dict",
            f"student = create_model({student.name!r}, dataset={settings.DATASET.TYPE!r},",
            f"                       num_classes={len(student.classes)}, image_size={size}).eval()",
            *([f'return_modules(student, {features}, "features")'] if features else []),
            f"load_state_dict(student, {read}, path)",
            "logits = student(torch.from_numpy(images))[0]",
        ]


class Safetensors(StateDict):
    """The entries of a state_dict as safetensors."""

    suffix = ".safetensors"
    packages = ("safetensors",)
    reader: ClassVar = ("from safetensors.torch import load_file", "load_file(path)")

    def convert(self, classifier: Classifier, images: Tensor, opset: int | None) -> Any:
        # Copies: safetensors refuses entries that share memory.
        return {name: value.contiguous().clone() for name, value in classifier.network.state_dict().items()}

    def save(self, content: Any, file: Path, description: Mapping[str, Any]) -> None:
        library = extras.optional("safetensors.torch", extra="export")
        file.write_bytes(library.save(content, metadata=as_strings(description)))

    def read(self, file: Path) -> Any:
        return extras.optional("safetensors.torch", extra="export").load_file(file)


FORMATS: dict[str, Format] = {
    "onnx": Onnx(),
    "torch.export": TorchExport(),
    "state_dict": StateDict(),
    "safetensors": Safetensors(),
}


def format_named(name: str) -> Format:
    """The format called ``name``. Raises UnknownNameError, with the closest known name."""
    if name not in FORMATS:
        near = did_you_mean(name, FORMATS)
        raise UnknownNameError(f"unknown format '{name}'{near or '.'} Known: {', '.join(FORMATS)}")
    return FORMATS[name]


def as_strings(description: Mapping[str, Any]) -> dict[str, str]:
    """A description for formats whose metadata are strings: values that are none, as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}


@contextlib.contextmanager
def exporting(what: str) -> Iterator[None]:
    """Run exporters, which print graphs and raise any exception, silently; raise ExportError, ``<what>: <reason>``, instead.

    The reason names an operator that ONNX does not have.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    output = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            warnings.simplefilter("ignore")
            yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise ExportError(f"{what}: {_reason(error)}") from error
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    """Drop what C++ code writes to stdout: TorchScript's exporter writes the graph of a network that it cannot convert."""
    stdout = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _traced(classifier: Classifier, images: Tensor) -> Any:
    import torch

    batch = torch.export.Dim("batch")
    return torch.export.export(classifier, (images,), dynamic_shapes={INPUT: {0: batch}}, strict=False)


def _reason(error: BaseException) -> str:
    """The operator that an exception of torch.onnx, or one that caused it, is about; otherwise the first line of its text."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if found := re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'|operator '([\w.:]+)' to ONNX", text):
            return f"torch.onnx has no ONNX operator for {found[1] or found[2]}"
        cause = cause.__cause__
    return next((line for line in str(error).split("\n") if line), type(error).__name__)
