"""
Errors in the form that clients get: `{"error": {"code", "message", "param"}}`. No message repeats a battle's text.

The routes with a wire format of somebody else answer in its form: `/v1/decisions` in OpenAI's, `/v1/systemone` in
TypeSafe's, with status 422 for an invalid body.
"""

import json

DECISIONS, SYSTEMONE = "/v1/decisions", "/v1/systemone"

CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "incomplete_group",
    413: "too_large",
    415: "unsupported_media_type",
    422: "no_finite_scores",
    429: "queue_full",
    500: "internal_error",
    503: "unavailable",
}


class HttpError(Exception):
    """
    End a request with an error status.

    Args:
        status: HTTP status.
        code: error code, see CODES.
        message: message for the client.
        param: the invalid field, such as `battles.3.prompt`, or None.
        headers: further headers of the response.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None, headers: dict | None = None):
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers

    def content(self) -> dict:
        """Return the body of the response."""
        return {"error": {"code": self.code, "message": str(self), "param": self.param}}


def path_of(scope: dict) -> str:
    """Return the path of a request without the path under which a proxy publishes the server."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def unavailable(message: str) -> HttpError:
    """Return an error 503 with the time to wait before the next try."""
    return HttpError(503, CODES[503], message, headers={"Retry-After": "5"})


def no_finite_scores() -> HttpError:
    """Return an error 422 for a battle to which the judge gives no finite numbers."""
    return HttpError(422, CODES[422], "The judge gives no finite numbers for this battle.")


def response(error: HttpError, path: str):
    """
    Return the response to a request that ended with an error.

    Args:
        error: the error.
        path: path of the request, which decides the form.
    """
    status, content = {DECISIONS: _openai, SYSTEMONE: _systemone}.get(path, _ours)(error)
    return json_response(content, status, error.headers)


def json_response(content, status: int = 200, headers: dict | None = None):
    """
    Return a response of JSON in ASCII. A name that a client sent may have surrogates, which UTF-8 cannot hold.

    Args:
        content: the content.
        status: HTTP status.
        headers: further headers.
    """
    from starlette.responses import Response

    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")


def _ours(error: HttpError) -> tuple[int, dict]:
    return error.status, error.content()


def _openai(error: HttpError) -> tuple[int, dict]:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return error.status, {"error": {**error.content()["error"], "type": kind}}


def _systemone(error: HttpError) -> tuple[int, dict]:
    if error.status in (400, 422):
        where = ["body", *(error.param.split(".") if error.param else ())]
        return 422, {"detail": [{"loc": where, "msg": str(error), "type": error.code}]}
    kind = "authentication_error" if error.status == 401 else error.code
    return error.status, {"detail": {"error_type": kind, "message": str(error)}}


def add_handlers(app) -> None:
    """Give all errors of a FastAPI app this form: ours, those of the routing (404, 405), and bugs (500)."""
    from starlette.exceptions import HTTPException

    async def ours(request, error: HttpError):
        return response(error, path_of(request.scope))

    async def routing(request, error: HTTPException):
        code = CODES.get(error.status_code, "error")
        wrong = HttpError(error.status_code, code, str(error.detail), headers=error.headers)
        return response(wrong, path_of(request.scope))

    async def bug(request, error: Exception):  # the server logs its traceback
        wrong = HttpError(500, CODES[500], "Internal server error. See the server's log for details.")
        return response(wrong, path_of(request.scope))

    app.add_exception_handler(HttpError, ours)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, bug)
