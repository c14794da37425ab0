"""Entry points: HTML pages, JSON API, gateway and commands. `register` lists all of them."""

from flask import Flask

from views.accounts import api as accounts_api
from views.accounts import commands as accounts_commands
from views.accounts import pages as accounts_pages
from views.accounts.pages import oauth, profile
from views.admin import api as admin_api
from views.admin import commands as admin_commands
from views.admin import pages as admin_pages
from views.admin.pages import admin_blueprint, audit_trail_page, plan_admin
from views.assistants import api as assistants_api
from views.assistants import commands as assistants_commands
from views.assistants import pages as assistant_pages
from views.atlas import api as atlas_api
from views.atlas import pages as atlas_pages
from views.billing import commands as purchase_commands
from views.billing import pages as billing_pages
from views.billing.api import api_key_usage_route, api_keys_api, budget_requests_api, key_limits_api
from views.billing.api import organisation_credits as organisation_credits_api
from views.billing.api import organisation_seats as organisation_seats_api
from views.billing.api import plans as plans_api
from views.billing.api import purchases as billing_api
from views.billing.api import referrals as referrals_api
from views.billing.api import subscription as subscription_api
from views.billing.api import subscriptions as subscriptions_api
from views.billing.pages import affiliates, budget_pages, credits_page, mail_settings, referrals
from views.conversations import api as conversations_api
from views.conversations import pages as conversation_pages
from views.demo import commands as demo_commands
from views.deployments import api as deployments_api
from views.deployments import pages as deployment_pages
from views.deployments.pages import site_host
from views.gateway import commands as gateway_commands
from views.gateway import pages as model_pages
from views.gateway.api import anthropic as gateway_anthropic
from views.gateway.api import audio as gateway_audio
from views.gateway.api import claude_code, codebuff_extras, model_calls, provider_key_routes, response_sockets
from views.gateway.api import codebuff as gateway_api
from views.gateway.api import completions as gateway_completions
from views.gateway.api import embeddings as gateway_embeddings
from views.gateway.api import gemini as gateway_gemini
from views.gateway.api import images as gateway_images
from views.gateway.api import moderations as gateway_moderations
from views.gateway.api import openai as gateway_openai
from views.gateway.api import rerank as gateway_rerank
from views.gateway.api import responses as gateway_responses
from views.gateway.api import searches as gateway_searches
from views.gateway.api import stored_responses as gateway_stored_responses
from views.index import api as files_api
from views.index import commands as document_commands
from views.index import pages as document_pages
from views.insights import api as insights_api
from views.insights import pages as insight_pages
from views.insights.pages import item_run_blueprint
from views.ledger import commands as billing_commands
from views.ledger import pages as ledger_pages
from views.orgs import api as orgs_api
from views.orgs import commands as orgs_commands
from views.orgs import pages as orgs_pages
from views.orgs.api import scim_routes
from views.playground import pages as playground_pages
from views.projects import api as projects_api
from views.projects import commands as project_commands
from views.projects import pages as project_pages
from views.runners import api as runners_api
from views.runners import pages as runner_pages
from views.runs import api as runs_api
from views.runs.pages import run_pages, stop_pages
from views.server import serve
from views.store.api import agents as agents_api
from views.store.api import publishers as publishers_api
from views.store.api import publishing as store_api
from views.store.api import stars as stars_api
from views.store.commands import store as store_commands
from views.store.pages import (
    agent,
    avatars,
    feeds,
    listing,
    opinions,
    publish_form,
    publishers,
    readme,
    versions,
)
from views.threads import api as threads_api
from views.threads import pages as thread_pages
from views.threads.api import conversations as openai_conversations
from views.threads.api import openai_assistants, openai_runs, openai_threads, remembered_chat
from views.turns import api as turns_api
from views.usage import api as usage_api
from views.usage import commands as usage_commands
from views.usage import pages as usage_pages
from views.web import (
    api_reference as api_reference,  # its routes
)
from views.web import (
    assets,
    client_archive,
    cors,
    error_handlers,
    fast_path,
    form_tokens,
    format,
    guards,
    health,
    htmx,
    launcher,
    mail_templates,
    openapi,
    pages,
    unknown_routes,
)
from views.web.body import limit_anonymous_body


def register(app: Flask) -> None:
    """Register all blueprints, commands and middleware."""
    htmx.init_app(app)
    format.init_app(app)
    mail_templates.init_app(app)
    guards.init_app(app, limit_anonymous_body)
    form_tokens.init_app(app)
    unknown_routes.init_app(app)
    error_handlers.init_app(app)
    assets.init_app(app)
    launcher.init_app(app)
    serve.init_app(app)
    accounts_commands.init_app(app)
    oauth.init_app(app)
    billing_commands.init_app(app)
    purchase_commands.init_app(app)
    gateway_commands.init_app(app)
    usage_commands.init_app(app)
    store_commands.init_app(app)
    orgs_commands.init_app(app)
    admin_commands.init_app(app)
    document_commands.init_app(app)
    assistants_commands.init_app(app)
    project_commands.init_app(app)
    demo_commands.init_app(app)
    app.register_blueprint(client_archive.bp)
    app.register_blueprint(pages.bp)
    app.register_blueprint(profile.bp)
    app.register_blueprint(openapi.bp)
    app.register_blueprint(run_pages.bp)
    app.register_blueprint(stop_pages.bp)
    app.register_blueprint(playground_pages.bp)
    app.register_blueprint(thread_pages.bp)
    app.register_blueprint(assistant_pages.bp)
    app.register_blueprint(project_pages.bp)
    app.register_blueprint(deployment_pages.bp)
    app.register_blueprint(runner_pages.bp)
    app.register_blueprint(atlas_pages.bp)
    app.register_blueprint(insight_pages.bp)
    app.register_blueprint(item_run_blueprint.bp)
    app.register_blueprint(conversation_pages.bp)
    app.register_blueprint(runs_api.bp)
    app.register_blueprint(files_api.bp)
    app.register_blueprint(document_pages.bp)
    app.register_blueprint(store_api.bp)
    app.register_blueprint(accounts_pages.bp)
    app.register_blueprint(accounts_api.bp)
    app.register_blueprint(usage_pages.bp)
    app.register_blueprint(usage_api.bp)
    app.register_blueprint(usage_api.usage_row_routes.bp)
    app.register_blueprint(usage_api.usage_sum_routes.bp)
    app.register_blueprint(billing_api.bp)
    app.register_blueprint(organisation_credits_api.bp)
    app.register_blueprint(gateway_api.bp)
    app.register_blueprint(budget_requests_api.bp)
    app.register_blueprint(key_limits_api.bp)
    app.register_blueprint(api_keys_api.bp)
    app.register_blueprint(assistants_api.bp)
    app.register_blueprint(api_key_usage_route.bp)
    app.register_blueprint(organisation_seats_api.bp)
    app.register_blueprint(billing_pages.bp)
    app.register_blueprint(budget_pages.bp)
    app.register_blueprint(credits_page.bp)
    app.register_blueprint(plan_admin.bp)
    app.register_blueprint(audit_trail_page.bp)
    app.register_blueprint(plans_api.bp)
    app.register_blueprint(subscriptions_api.bp)
    app.register_blueprint(referrals_api.bp)
    app.register_blueprint(subscription_api.bp)
    app.register_blueprint(referrals.bp)
    app.register_blueprint(affiliates.bp)
    app.register_blueprint(threads_api.bp)
    app.register_blueprint(orgs_pages.bp)
    app.register_blueprint(orgs_api.bp)
    app.register_blueprint(scim_routes.bp)
    app.register_blueprint(ledger_pages.bp)
    app.register_blueprint(mail_settings.bp)
    app.register_blueprint(admin_pages.bp)
    app.register_blueprint(admin_blueprint.bp)
    app.register_blueprint(admin_api.bp)
    app.register_blueprint(publishers_api.bp)
    app.register_blueprint(avatars.bp)
    app.register_blueprint(agent.bp)
    app.register_blueprint(agents_api.bp)
    app.register_blueprint(stars_api.bp)
    app.register_blueprint(publishers.bp)
    app.register_blueprint(readme.bp)
    app.register_blueprint(versions.bp)
    app.register_blueprint(opinions.bp)
    app.register_blueprint(publish_form.bp)
    app.register_blueprint(listing.bp)
    app.register_blueprint(feeds.bp)
    model_calls.init_app(app)
    turns_api.init_app(app)
    remembered_chat.init_app(app)
    app.register_blueprint(turns_api.bp)
    app.register_blueprint(openai_conversations.bp)
    app.register_blueprint(openai_assistants.bp)
    app.register_blueprint(openai_threads.bp)
    app.register_blueprint(openai_runs.bp)
    app.register_blueprint(projects_api.bp)
    runners_api.init_app(app)
    conversations_api.init_app(app)
    app.register_blueprint(insights_api.bp)
    app.register_blueprint(deployments_api.bp)
    app.register_blueprint(atlas_api.bp)
    app.register_blueprint(gateway_embeddings.bp)
    app.register_blueprint(gateway_audio.bp)
    app.register_blueprint(gateway_images.bp)
    app.register_blueprint(gateway_rerank.bp)
    app.register_blueprint(gateway_searches.bp)
    app.register_blueprint(codebuff_extras.bp)
    app.register_blueprint(gateway_moderations.bp)
    app.register_blueprint(gateway_completions.bp)
    response_sockets.init_app(app)
    app.register_blueprint(gateway_openai.bp)
    app.register_blueprint(gateway_anthropic.bp)
    app.register_blueprint(claude_code.bp)
    app.register_blueprint(gateway_responses.bp)
    app.register_blueprint(gateway_stored_responses.bp)
    app.register_blueprint(gateway_gemini.bp)
    app.register_blueprint(model_pages.bp)
    app.register_blueprint(model_pages.provider_key_pages.bp)
    app.register_blueprint(provider_key_routes.bp)
    fast_path.init_app(app)
    cors.init_app(app)
    app.register_blueprint(health.bp)
    site_host.init_app(app)  # the outermost: sites reach nothing else
