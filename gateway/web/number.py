"""By which number somebody names a job, a delivery, a version of the rules or a token in an address."""

from typing import Annotated

from fastapi import Path

FROM, BELOW = 1, 2**31
Key = Annotated[int, Path(ge=FROM, lt=BELOW)]
