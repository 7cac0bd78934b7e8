"""
Errors in the form that clients get: `{"error": {"code", "message", "param"}}`. No message repeats a battle's text.
"""

CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
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


def unavailable(message: str) -> HttpError:
    """Return an error 503 with the time to wait before the next try."""
    return HttpError(503, CODES[503], message, headers={"Retry-After": "5"})


def no_finite_scores() -> HttpError:
    """Return an error 422 for a battle to which the judge gives no finite numbers."""
    return HttpError(422, CODES[422], "The judge gives no finite numbers for this battle.")


def response(error: HttpError):
    """Return the response to a request that ended with an error."""
    from fastapi.responses import JSONResponse

    return JSONResponse(error.content(), error.status, error.headers)


def add_handlers(app) -> None:
    """Give all errors of a FastAPI app this form: ours, those of the routing (404, 405), and bugs (500)."""
    from starlette.exceptions import HTTPException

    async def ours(request, error: HttpError):
        return response(error)

    async def routing(request, error: HTTPException):
        code = CODES.get(error.status_code, "error")
        return response(HttpError(error.status_code, code, str(error.detail), headers=error.headers))

    async def bug(request, error: Exception):  # the server logs its traceback
        return response(HttpError(500, CODES[500], "Internal server error. See the server's log for details."))

    app.add_exception_handler(HttpError, ours)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, bug)
