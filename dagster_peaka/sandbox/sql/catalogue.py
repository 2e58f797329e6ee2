"""The allow-list of functions: Trino's names and types, each with what DuckDB computes for it.

A line is NAME(PARAMETERS) RESULT: SQL, where {0}, {1} … are the arguments, coerced to the parameters' types. Capital
letters stand for any type, N for any number, D for any decimal, E for any but arrays, maps and rows (in which NULLs compare otherwise
here), and lambda(T, U) for a function from T to U. Of several lines with one name the first that fits is taken. In aggregates, <<…>> is the call that DISTINCT, ORDER BY, FILTER and OVER belong to.
What needs more than a line is in `functions`.
"""

SCALARS = """
abs(N) N: abs({0})
sign(D) decimal(1,0): CAST(sign({0}) AS DECIMAL(1,0))
sign(N) N: CAST(sign({0}) AS {type})
cbrt(double) double: t_cbrt(cbrt({0}), {0})
exp(double) double: t_finite(exp({0}))
ln(double) double: t_finite(ln({0}))
log2(double) double: t_finite(log2({0}))
log10(double) double: t_finite(log10({0}))
log(double, double) double: t_finite(ln({1}) / ln({0}))
sqrt(double) double: t_finite(CASE WHEN {0} < 0 THEN CAST('NaN' AS DOUBLE) ELSE sqrt({0}) END)
power(double, double) double: t_finite(power({0}, {1}))
pow(double, double) double: t_finite(power({0}, {1}))
pi() double: pi()
e() double: exp(CAST(1 AS DOUBLE))
degrees(double) double: degrees({0})
radians(double) double: radians({0})
sin(double) double: sin({0})
cos(double) double: cos({0})
tan(double) double: tan({0})
round(double, bigint) double: t_round({0}, {1})
width_bucket(double, double, double, bigint) bigint: CASE WHEN {0} < {1} THEN 0 WHEN {0} >= {2} THEN {3} + 1 ELSE CAST(floor(({0} - {1}) * {3} / ({2} - {1})) AS BIGINT) + 1 END
greatest(E...) E: CASE WHEN t_has([{*}], NULL) THEN NULL ELSE greatest({*}) END
least(E...) E: CASE WHEN t_has([{*}], NULL) THEN NULL ELSE least({*}) END
coalesce(T, T...) T: coalesce({*})
bitwise_and(bigint, bigint) bigint: ({0} & {1})
bitwise_or(bigint, bigint) bigint: ({0} | {1})
bitwise_xor(bigint, bigint) bigint: xor({0}, {1})
bitwise_not(bigint) bigint: (-{0} - 1)
is_nan(double) boolean: isnan({0})
lower(varchar) varchar: lower({0})
upper(varchar) varchar: t_upper({0})
length(varchar) bigint: length({0})
length(varbinary) bigint: octet_length({0})
trim(varchar) varchar: trim({0}, t_spaces())
trim(varchar, varchar) varchar: trim({0}, {1})
ltrim(varchar) varchar: ltrim({0}, t_spaces())
ltrim(varchar, varchar) varchar: ltrim({0}, {1})
rtrim(varchar) varchar: rtrim({0}, t_spaces())
rtrim(varchar, varchar) varchar: rtrim({0}, {1})
substr(varchar, bigint) varchar: t_substr({0}, {1}, length({0}))
substr(varchar, bigint, bigint) varchar: t_substr({0}, {1}, {2})
strpos(varchar, varchar) bigint: strpos({0}, {1})
replace(varchar, varchar) varchar: t_replace({0}, {1}, '')
replace(varchar, varchar, varchar) varchar: t_replace({0}, {1}, {2})
lpad(varchar, bigint, varchar) varchar: lpad({0}, t_padded({1}, {2}), {2})
rpad(varchar, bigint, varchar) varchar: rpad({0}, t_padded({1}, {2}), {2})
reverse(varchar) varchar: t_reverse({0})
reverse(array(T)) array(T): list_reverse({0})
split_part(varchar, varchar, bigint) varchar: t_split_part({0}, {1}, {2})
split(varchar, varchar) array(varchar): t_split({0}, {1}, 1000000)
split(varchar, varchar, bigint) array(varchar): t_split({0}, {1}, {2})
regexp_like(varchar, varchar) boolean: regexp_matches({0}, {1})
regexp_count(varchar, varchar) bigint: len(regexp_extract_all({0}, {1}))
regexp_split(varchar, varchar) array(varchar): regexp_split_to_array({0}, {1})
regexp_replace(varchar, varchar) varchar: regexp_replace({0}, {1}, '', 'g')
regexp_replace(varchar, varchar, varchar) varchar: regexp_replace({0}, {1}, {2}, 'g')
regexp_extract(varchar, varchar) varchar: CASE WHEN regexp_matches({0}, {1}) THEN regexp_extract({0}, {1}) END
regexp_extract(varchar, varchar, integer) varchar: CASE WHEN regexp_matches({0}, {1}) THEN regexp_extract({0}, {1}, {2}) END
regexp_extract_all(varchar, varchar) array(varchar): regexp_extract_all({0}, {1})
regexp_extract_all(varchar, varchar, integer) array(varchar): regexp_extract_all({0}, {1}, {2})
starts_with(varchar, varchar) boolean: starts_with({0}, {1})
translate(varchar, varchar, varchar) varchar: translate({0}, {1}, {2})
chr(bigint) varchar: chr(CAST({0} AS INTEGER))
codepoint(varchar) integer: CAST(unicode({0}) AS INTEGER)
concat_ws(varchar, varchar...) varchar: concat_ws({*})
concat_ws(varchar, array(varchar)) varchar: CASE WHEN {0} IS NOT NULL THEN array_to_string({1}, {0}) END
to_hex(varbinary) varchar: upper(hex({0}))
from_hex(varchar) varbinary: unhex({0})
to_utf8(varchar) varbinary: encode({0})
from_utf8(varbinary) varchar: decode({0})
to_base64(varbinary) varchar: to_base64({0})
from_base64(varchar) varbinary: from_base64({0})
md5(varbinary) varbinary: unhex(md5({0}))
sha1(varbinary) varbinary: unhex(sha1({0}))
sha256(varbinary) varbinary: unhex(sha256({0}))
last_day_of_month(date) date: last_day({0})
last_day_of_month(timestamp) date: last_day({0})
to_unixtime(timestamp) double: (CAST(epoch_us({0}) AS DOUBLE) / 1e6)
to_iso8601(date) varchar: CAST({0} AS VARCHAR)
date_format(timestamp, varchar) varchar: t_date_format({0}, {1})
date_parse(varchar, varchar) timestamp(3): t_date_parse({0}, {1})
to_milliseconds(interval day to second) bigint: {0}
json_extract(json, varchar) json: t_json_extract({0}, {1})
json_extract(varchar, varchar) json: t_json_extract({0}, {1})
json_extract_scalar(json, varchar) varchar: t_json_extract_scalar({0}, {1})
json_extract_scalar(varchar, varchar) varchar: t_json_extract_scalar({0}, {1})
json_size(json, varchar) bigint: t_json_size({0}, {1})
json_size(varchar, varchar) bigint: t_json_size({0}, {1})
json_array_length(json) bigint: t_json_array_length({0})
json_array_length(varchar) bigint: t_json_array_length({0})
json_parse(varchar) json: t_json_parse({0})
json_format(json) varchar: {0}
cardinality(array(T)) bigint: len({0})
cardinality(map(K, V)) bigint: CAST(cardinality({0}) AS BIGINT)
element_at(array(T), bigint) T: CASE WHEN {1} = 0 THEN error('SQL array indices start at 1') ELSE list_extract({0}, {1}) END
element_at(map(K, V), K) V: map_extract_value({0}, {1})
contains(array(E), E) boolean: t_any(list_transform({0}, lambda e: e = {1}))
array_position(array(E), E) bigint: CASE WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN CAST(coalesce(list_position({0}, {1}), 0) AS BIGINT) END
array_distinct(array(T)) array(T): t_distinct({0})
array_union(array(T), array(T)) array(T): t_distinct(list_concat({0}, {1}) || CASE WHEN {0} IS NULL OR {1} IS NULL THEN NULL ELSE [] END)
array_intersect(array(T), array(T)) array(T): CASE WHEN {1} IS NOT NULL THEN list_filter(t_distinct({0}), lambda e: t_has({1}, e)) END
array_except(array(T), array(T)) array(T): CASE WHEN {1} IS NOT NULL THEN list_filter(t_distinct({0}), lambda e: NOT t_has({1}, e)) END
array_remove(array(E), E) array(E): list_filter({0}, lambda e: e IS NULL OR e <> {1})
array_max(array(E)) E: CASE WHEN NOT t_has({0}, NULL) THEN list_max({0}) END
array_min(array(E)) E: CASE WHEN NOT t_has({0}, NULL) THEN list_min({0}) END
array_sort(array(E)) array(E): list_sort({0}, 'ASC', 'NULLS LAST')
arrays_overlap(array(E), array(E)) boolean: t_any(list_transform({0}, lambda e: t_any(list_transform({1}, lambda g: e = g))))
slice(array(T), bigint, bigint) array(T): CASE WHEN {1} = 0 OR {2} < 0 THEN error('slice: the start is not 0, the length not below 0') WHEN {1} + len({0}) < 0 THEN [] ELSE list_slice({0}, CASE WHEN {1} > 0 THEN {1} ELSE len({0}) + {1} + 1 END, CASE WHEN {1} > 0 THEN {1} ELSE len({0}) + {1} + 1 END + {2} - 1) END
flatten(array(array(T))) array(T): flatten({0})
repeat(T, bigint) array(T): CASE WHEN {1} > 10000 THEN error('repeat: more than 10000 elements') ELSE list_transform(range({1}), lambda e: {0}) END
sequence(bigint, bigint) array(bigint): t_sequence({0}, {1}, CASE WHEN {0} <= {1} THEN 1 ELSE -1 END)
sequence(bigint, bigint, bigint) array(bigint): t_sequence({0}, {1}, {2})
sequence(date, date) array(date): list_transform(t_sequence(0, date_diff('day', {0}, {1}), CASE WHEN {0} <= {1} THEN 1 ELSE -1 END), lambda e: CAST({0} + to_days(CAST(e AS INTEGER)) AS DATE))
sequence(date, date, interval day to second) array(date): list_transform(t_sequence(0, date_diff('day', {0}, {1}), {2} // 86400000), lambda e: CAST({0} + to_days(CAST(e AS INTEGER)) AS DATE))
transform(array(T), lambda(T, U)) array(U): list_transform({0}, {1})
filter(array(T), lambda(T, boolean)) array(T): list_filter({0}, {1})
any_match(array(T), lambda(T, boolean)) boolean: t_any(list_transform({0}, {1}))
all_match(array(T), lambda(T, boolean)) boolean: NOT t_any(list_transform(list_transform({0}, {1}), lambda e: NOT e))
none_match(array(T), lambda(T, boolean)) boolean: NOT t_any(list_transform({0}, {1}))
map(array(K), array(V)) map(K, V): map({0}, {1})
map() map(unknown, unknown): MAP()
map_keys(map(K, V)) array(K): map_keys({0})
map_values(map(K, V)) array(V): map_values({0})
map_from_entries(array(row(K, V))) map(K, V): map_from_entries({0})
is_json_scalar(varchar) boolean: t_json_size({0}, '$') = 0
"""

AGGREGATES = """
count(T) bigint: <<count({0})>>
count_if(boolean) bigint: <<count(CASE WHEN {0} THEN 1 END)>>
sum(bigint) bigint: CAST(<<sum({0})>> AS BIGINT)
sum(double) double: <<sum({0})>>
avg(double) double: <<avg({0})>>
geometric_mean(double) double: <<geometric_mean({0})>>
min(E) E: <<min({0})>>
max(E) E: <<max({0})>>
min(E, bigint) array(E): <<min({0}, {1})>>
max(E, bigint) array(E): <<max({0}, {1})>>
arbitrary(T) T: <<any_value({0})>>
any_value(T) T: <<any_value({0})>>
bool_and(boolean) boolean: <<bool_and({0})>>
every(boolean) boolean: <<bool_and({0})>>
bool_or(boolean) boolean: <<bool_or({0})>>
approx_distinct(T) bigint: <<count(DISTINCT {0})>>
approx_percentile(E, double) E: <<quantile_disc({0}, {1})>>
stddev(double) double: <<stddev_samp({0})>>
stddev_samp(double) double: <<stddev_samp({0})>>
stddev_pop(double) double: <<stddev_pop({0})>>
variance(double) double: <<var_samp({0})>>
var_samp(double) double: <<var_samp({0})>>
var_pop(double) double: <<var_pop({0})>>
corr(double, double) double: <<corr({0}, {1})>>
covar_samp(double, double) double: <<covar_samp({0}, {1})>>
covar_pop(double, double) double: <<covar_pop({0}, {1})>>
regr_slope(double, double) double: <<regr_slope({0}, {1})>>
regr_intercept(double, double) double: <<regr_intercept({0}, {1})>>
max_by(T, E) T: <<arg_max_null({0}, {1})>>
min_by(T, E) T: <<arg_min_null({0}, {1})>>
array_agg(T) array(T): <<array_agg({0})>>
bitwise_and_agg(bigint) bigint: <<bit_and({0})>>
bitwise_or_agg(bigint) bigint: <<bit_or({0})>>
histogram(T) map(T, bigint): map_from_entries(list_transform(map_entries(<<histogram({0})>>), lambda e: struct_pack(key := e.key, value := CAST(e.value AS BIGINT))))
map_agg(K, V) map(K, V): map(list_transform(<<array_agg(struct_pack(k := {0}, v := {1}))>>, lambda e: e.k), list_transform(<<array_agg(struct_pack(k := {0}, v := {1}))>>, lambda e: e.v))
listagg(varchar) varchar: <<string_agg({0}, '')>>
listagg(varchar, varchar) varchar: <<string_agg({0}, {1})>>
row_number() bigint: <<row_number()>>
rank() bigint: <<rank()>>
dense_rank() bigint: <<dense_rank()>>
percent_rank() double: <<percent_rank()>>
cume_dist() double: <<cume_dist()>>
ntile(bigint) bigint: <<ntile({0})>>
first_value(T) T: <<first_value({0})>>
last_value(T) T: <<last_value({0})>>
nth_value(T, bigint) T: <<nth_value({0}, {1})>>
lag(T) T: <<lag({0})>>
lag(T, bigint) T: <<lag({0}, {1})>>
lag(T, bigint, T) T: <<lag({0}, {1}, {2})>>
lead(T) T: <<lead({0})>>
lead(T, bigint) T: <<lead({0}, {1})>>
lead(T, bigint, T) T: <<lead({0}, {1}, {2})>>
"""
"""Aggregates, and from row_number() on functions of windows alone."""

MACROS = """
t_div(a, b) AS CASE WHEN b = 0 THEN error('Division by zero') ELSE a // b END
t_mod(a, b) AS CASE WHEN b = 0 THEN error('Division by zero') ELSE a % b END
t_finite(x) AS CASE WHEN x IS NULL OR isfinite(x) THEN x ELSE error('A double became Infinity or NaN, which this sandbox does not compute with') END
t_cbrt(r, x) AS CASE WHEN round(r) * round(r) * round(r) = x THEN round(r) ELSE r END
t_in_years(d) AS CASE WHEN d IS NULL OR year(d) BETWEEN 1 AND 9999 THEN d ELSE error('A date became one outside of the years 1 to 9999') END
t_whole_days(ms) AS CASE WHEN ms % 86400000 = 0 THEN to_days(CAST(ms // 86400000 AS INTEGER)) ELSE error('Cannot add hours, minutes or seconds to a date') END
t_round_time(t, unit) AS make_timestamp(epoch_us(t) + unit // 2 - (((epoch_us(t) + unit // 2) % unit) + unit) % unit)
t_has(l, x) AS len(list_filter(l, lambda h: h IS NOT DISTINCT FROM x)) > 0
t_any(l) AS CASE WHEN l IS NULL THEN NULL WHEN t_has(l, true) THEN true WHEN t_has(l, NULL) THEN NULL ELSE false END
t_distinct(l) AS list_filter(l, lambda d, i: len(list_filter(list_slice(l, 1, i - 1), lambda h: h IS NOT DISTINCT FROM d)) = 0)
t_at(l, i) AS CASE WHEN i = 0 THEN error('SQL array indices start at 1') WHEN i < 0 THEN error('Array subscript is negative: ' || i) WHEN i > len(l) THEN error('Array subscript must be less than or equal to array length: ' || i || ' > ' || len(l)) ELSE list_extract(l, i) END
t_key(m, k) AS CASE WHEN m IS NULL OR map_contains(m, k) THEN map_extract_value(m, k) ELSE error('Key not present in map: ' || k) END
t_sequence(a, b, s) AS CASE WHEN s = 0 OR (s > 0 AND a > b) OR (s < 0 AND a < b) THEN error('sequence stop value should be greater than or equal to start value if step is greater than zero otherwise stop should be less than or equal to start') WHEN (b - a) // s >= 10000 THEN error('result of sequence function must not have more than 10000 entries') ELSE generate_series(a, b, s) END
t_ascii(text) AS CASE WHEN text IS NULL OR strlen(text) = length(text) THEN text ELSE error('This sandbox applies classes as \\w and \\d of a pattern to ASCII texts only') END
t_line(text) AS CASE WHEN ends_with(text, chr(10)) THEN error('This sandbox applies $ to no text that ends in a newline') ELSE text END
t_spaces() AS array_to_string(list_transform([9, 10, 11, 12, 13, 28, 29, 30, 31, 32, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8200, 8201, 8202, 8232, 8233, 8287, 12288], lambda c: chr(c)), '')
t_substr(t, s, n) AS CASE WHEN t IS NULL OR s IS NULL OR n IS NULL THEN NULL WHEN s = 0 OR n <= 0 OR abs(s) > length(t) THEN '' ELSE substring(t, s, least(n, length(t))) END
t_replace(t, part, r) AS CASE WHEN part = '' THEN regexp_replace(t, '', replace(r, chr(92), chr(92) || chr(92)), 'g') ELSE replace(t, part, r) END
t_padded(n, pad) AS CASE WHEN n < 0 OR n > 1048576 THEN error('lpad, rpad: the target length must be from 0 to 1048576') WHEN pad = '' THEN error('lpad, rpad: the padding string must not be empty') ELSE CAST(n AS INTEGER) END
t_upper(t) AS array_to_string(list_transform(string_split(t, 'ß'), lambda p: upper(p)), 'ß')
t_json_array_length(t) AS CASE WHEN json_valid(t) THEN CASE WHEN json_type(t) = 'ARRAY' THEN CAST(json_array_length(t) AS BIGINT) END END
t_reverse(t) AS array_to_string(list_reverse(regexp_extract_all(t, '(?s).')), '')
t_parts(t, d) AS CASE WHEN d = '' THEN error('An empty delimiter is not supported by this sandbox') ELSE string_split(t, d) END
t_split_part(t, d, i) AS CASE WHEN i < 1 THEN error('split_part: the index must be greater than zero') ELSE list_extract(t_parts(t, d), i) END
t_split(t, d, most) AS CASE WHEN most < 1 THEN error('split: the limit must be positive') WHEN len(t_parts(t, d)) <= most THEN t_parts(t, d) ELSE list_append(list_slice(t_parts(t, d), 1, most - 1), array_to_string(list_slice(t_parts(t, d), most, len(t_parts(t, d))), d)) END
t_like(t, p, e) AS CASE WHEN length(e) <> 1 THEN error('LIKE: the escape string must be a single character') WHEN contains(replace(replace(replace(p, e || e, ''), e || '%', ''), e || '_', ''), e) THEN error('LIKE: the escape character must be followed by %, _ or itself') ELSE like_escape(t, p, e) END
t_read(text, value, form, more, lenient, said) AS CASE WHEN regexp_full_match(text, form) AND value IS NOT NULL THEN value WHEN text IS NULL OR (lenient AND (regexp_full_match(text, form) OR NOT regexp_full_match(text, more))) THEN NULL ELSE error('Cannot cast ' || chr(39) || left(text, 60) || chr(39) || ' to ' || said) END
t_day(text) AS CASE WHEN NOT starts_with(text, '0000') THEN TRY_CAST(text AS DATE) END
t_moment(text, unit) AS CASE WHEN NOT starts_with(text, '0000') THEN t_round_time(TRY_CAST(regexp_replace(text, '( \\d\\d:\\d\\d)$', '\\1:00') AS TIMESTAMP), unit) END
t_timestamp_to_text(t, digits) AS left(strftime(t_in_years(t), '%Y-%m-%d %H:%M:%S.%f'), CASE WHEN digits = 0 THEN 19 ELSE 20 + digits END)
t_hash(text) AS CAST(md5_number_lower(text) AS HUGEINT)
t_checksum(total) AS unhex(printf('%016X', CAST(total % 18446744073709551616::HUGEINT AS UBIGINT)))
"""
"""What several of them share, as DuckDB's macros."""
