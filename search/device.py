"""Where trials train: `cpu`, or `cuda` and `cuda:N` where torch finds such a card."""

import re

from grammar.errors import StudyError


def check_device(name: str) -> None:
    """Raises: StudyError for a device that is not there, before any worker starts."""
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", name)
    if found is None:
        raise StudyError(f"{name[:40]!r} is no device", hint="use cpu, cuda or cuda:N")
    if name == "cpu":
        return
    import torch  # seconds to import

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(found[1] or 0) >= count:
        raise StudyError(
            f"--device {name}: torch finds {count or 'no'} CUDA device{'' if count == 1 else 's'}",
            hint="use --device cpu, or a machine with such a card and a torch built for it",
        )
