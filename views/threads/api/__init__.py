"""JSON API of threads, their messages and their links (crafely contract, section 5). Each module adds its views to the blueprint."""

from views.threads.api import message_routes, share_routes, thread_routes, turn_routes
from views.threads.api.threads_api_blueprint import bp

__all__ = ["bp", "message_routes", "share_routes", "thread_routes", "turn_routes"]
