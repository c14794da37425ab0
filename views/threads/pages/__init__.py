"""Pages of threads: the list, a conversation while it is written, its forms, and links that share it."""

from views.threads.pages import thread_files as thread_files
from views.threads.pages import thread_forms as thread_forms
from views.threads.pages import thread_list as thread_list
from views.threads.pages import thread_page as thread_page
from views.threads.pages import thread_settings_page as thread_settings_page
from views.threads.pages import thread_sharing as thread_sharing
from views.threads.pages import thread_stream as thread_stream
from views.threads.pages.thread_blueprint import bp as bp
