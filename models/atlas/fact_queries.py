"""What is looked for in the syntax of each language: definitions, names that are used or called, imports and packages.

Captures: `function`, `class`, `method`, `value`, `type` are definitions with a field `name`; `owner` is a block whose type its functions
belong to; `ref` a name; `call` a name that is called; `spec` what is imported; `package` the name of the file's package."""

PYTHON_FACTS = """
(function_definition) @function
(class_definition) @class
(module (expression_statement (assignment left: (identifier) @value)))
(identifier) @ref
(call function: (identifier) @call)
(call function: (attribute attribute: (identifier) @call))
(import_statement) @spec
(import_from_statement) @spec
"""
_SCRIPT = """
(function_declaration) @function
(generator_function_declaration) @function
(class_declaration) @class
(method_definition) @method
(variable_declarator value: (arrow_function)) @function
(variable_declarator value: (function_expression)) @function
(program (lexical_declaration (variable_declarator) @value))
(program (export_statement (lexical_declaration (variable_declarator) @value)))
(identifier) @ref
(property_identifier) @ref
(shorthand_property_identifier) @ref
(call_expression function: (identifier) @call)
(call_expression function: (member_expression property: (property_identifier) @call))
(new_expression constructor: (identifier) @call)
(import_statement source: (string) @spec)
(export_statement source: (string) @spec)
(call_expression function: (import) arguments: (arguments (string) @spec))
((call_expression function: (identifier) @required arguments: (arguments . (string) @spec .)) (#eq? @required "require"))
"""
JAVASCRIPT_FACTS = f"{_SCRIPT}(jsx_opening_element name: (identifier) @call)\n(jsx_self_closing_element name: (identifier) @call)\n"
TYPESCRIPT_FACTS = f"""{_SCRIPT}
(abstract_class_declaration) @class
(interface_declaration) @type
(type_alias_declaration) @type
(enum_declaration) @type
(type_identifier) @ref
"""
TSX_FACTS = f"{TYPESCRIPT_FACTS}(jsx_opening_element name: (identifier) @call)\n(jsx_self_closing_element name: (identifier) @call)\n"
GO_FACTS = """
(function_declaration) @function
(method_declaration) @method
(type_spec) @type
(source_file (const_declaration (const_spec) @value))
(source_file (var_declaration (var_spec) @value))
(identifier) @ref
(field_identifier) @ref
(type_identifier) @ref
(call_expression function: (identifier) @call)
(call_expression function: (selector_expression field: (field_identifier) @call))
(import_spec path: (interpreted_string_literal) @spec)
(package_clause (package_identifier) @package)
"""
RUST_FACTS = """
(function_item) @function
(struct_item) @type
(enum_item) @type
(union_item) @type
(trait_item) @type
(type_item) @type
(const_item) @value
(static_item) @value
(macro_definition) @function
(impl_item) @owner
(mod_item) @spec
(use_declaration) @spec
(identifier) @ref
(type_identifier) @ref
(field_identifier) @ref
(call_expression function: (identifier) @call)
(call_expression function: (scoped_identifier name: (identifier) @call))
(call_expression function: (field_expression field: (field_identifier) @call))
(macro_invocation macro: (identifier) @call)
"""
JAVA_FACTS = """
(class_declaration) @class
(record_declaration) @class
(interface_declaration) @type
(enum_declaration) @type
(method_declaration) @method
(constructor_declaration) @method
(identifier) @ref
(type_identifier) @ref
(method_invocation name: (identifier) @call)
(object_creation_expression type: (type_identifier) @call)
(import_declaration) @spec
(package_declaration) @package
"""
