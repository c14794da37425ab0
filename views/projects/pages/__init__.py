"""Pages of projects: the list, a new project in steps, and what one project has: workspaces, history, files, operations, variables."""

from views.projects.pages import drift_page as drift_page
from views.projects.pages import environment_page as environment_page
from views.projects.pages import history_pages as history_pages
from views.projects.pages import operation_pages as operation_pages
from views.projects.pages import overlap_page as overlap_page
from views.projects.pages import project_activity_page as project_activity_page
from views.projects.pages import project_files_page as project_files_page
from views.projects.pages import project_list_page as project_list_page
from views.projects.pages import project_overview_page as project_overview_page
from views.projects.pages import project_settings_page as project_settings_page
from views.projects.pages import sync_file_page as sync_file_page
from views.projects.pages import sync_pages as sync_pages
from views.projects.pages import workspace_pages as workspace_pages
from views.projects.pages.project_blueprint import bp as bp
