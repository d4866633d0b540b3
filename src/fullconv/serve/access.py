"""Who may ask: those who know the token, if there is one."""

# Annotations are evaluated here: FastAPI would not find the names of a function in their text.

import hmac
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer


def guard(token: str | None) -> Callable[..., None]:
    """Return a dependency that refuses requests without the token; with None it lets all pass.

    The comparison takes as long whatever was given.
    """
    if token is None:
        return lambda: None
    expected, bearer = token.encode(), HTTPBearer(auto_error=False)

    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        sent = given.credentials.encode("utf-8", "surrogateescape") if given else b""
        if not hmac.compare_digest(sent, expected):
            raise HTTPException(401, "give the token", {"WWW-Authenticate": "Bearer"})

    return check
