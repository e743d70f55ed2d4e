# ruby-pg: see README.md.
require "pg"
$stdout.sync = true
ID = ENV.fetch("APP_ID")
SESSION = ENV["APP_SESSION"] == "1"
TABLE = "app_#{ID}"
SERVERS = ENV.fetch("APP_SERVERS").to_i

def state
  yield
  "fine"
rescue PG::Error => error
  error.result ? error.result.error_field(PG::PG_DIAG_SQLSTATE) : error.class.to_s
end

c = PG.connect(host: ENV["PGHOST"])
c.set_notice_receiver { |_| }
c.exec("drop table if exists #{TABLE}")
c.exec("create table #{TABLE} (n int primary key, t text)")
told = (0...20).sum { |n| c.exec_params("select $1::int + 1", [n]).getvalue(0, 0).to_i }
puts "autocommit: #{told}"
failed = nil
c.transaction do
  c.exec_params("insert into #{TABLE} values ($1, $2)", [1, "one"])
  c.exec("savepoint here")
  failed = state { c.exec_params("insert into #{TABLE} values ($1, $2)", [1, "x"]) }
  c.exec("rollback to here")
  c.exec_params("insert into #{TABLE} values ($1, $2)", [2, "two"])
end
puts "transaction: #{failed} #{c.exec("select count(*) from #{TABLE}").getvalue(0, 0)}"

if ARGV.first == "named"
  c.prepare("mine", "select t, $1::int from #{TABLE} where n = $2")
  told = (0...120).sum { |n| c.exec_prepared("mine", [n, n % 3]).values.sum { |row| row[1].to_i } }
  described = c.describe_prepared("mine")
  puts "prepared: #{told} #{described.nparams} #{described.fname(0)}"
  c.prepare("all", "select * from #{TABLE} where n = $1")
  c.exec_prepared("all", [1])
  other = PG.connect(host: ENV["PGHOST"])
  other.exec("alter table #{TABLE} add more int default 3")
  other.close
  told = state { c.exec_prepared("all", [1]) }
  told = "as servers are shared" if SERVERS > 1 && %w[fine 0A000].include?(told)
  puts "changed: #{told}"
  taken = state { c.prepare("all", "select 1") }
  unknown = state { c.exec_prepared("nosuch", []) }
  puts "names: #{taken} #{unknown}"
  c.exec("deallocate all")
  c.prepare("all", "select * from #{TABLE} where n = $1")
  SERVERS.times { break if state { c.exec_prepared("all", [1]) } == "fine" }
  puts "changed, after: #{c.exec_prepared("all", [1]).values.inspect}"
end
# The unnamed statement, prepared first and run behind another Sync.
c.prepare("", "select $1::int * 2")
puts "unnamed: #{(1..5).map { |n| c.exec_prepared("", [n]).getvalue(0, 0) }.inspect}"
c.exec("discard all")
puts "reset: #{c.exec_params("select $1::int", [7]).getvalue(0, 0)}"

c.transaction do
  c.exec("declare mine cursor for select generate_series(1, 50)")
  total = 0
  loop do
    rows = c.exec("fetch 7 from mine").values
    break if rows.empty?
    total += rows.sum { |row| row[0].to_i }
  end
  puts "cursor: #{total}"
end
c.send_query_params("select generate_series(1, $1)", [40])
c.set_single_row_mode
puts "cursor streamed: #{c.get_result.stream_each.sum { |row| row["generate_series"].to_i }}"
c.get_last_result

c.copy_data("copy #{TABLE} (n, t) from stdin") do
  (100...300).each { |n| c.put_copy_data("#{n}\tx\n") }
end
broken = state do
  c.copy_data("copy #{TABLE} (n, t) from stdin") { c.put_copy_data("100\ttaken\n") }
end
total = 0
c.copy_data("copy (select n from #{TABLE}) to stdout") do
  while (row = c.get_copy_data)
    total += row.to_i
  end
end
puts "copy: #{total} #{broken}"

if c.respond_to?(:enter_pipeline_mode)
  c.enter_pipeline_mode
  10.times { |n| c.send_query_params("select $1::int", [n]) }
  c.send_query_params("select 1 / $1::int", [0])
  c.send_query_params("select 2", [])
  c.pipeline_sync
  c.send_query_params("select 3", [])
  c.pipeline_sync
  told = []
  synced = 0
  while synced < 2
    result = c.get_result or next
    told << PG.constants.find { |k| k.to_s.start_with?("PGRES_") && PG.const_get(k) == result.result_status }
    synced += 1 if result.result_status == PG::PGRES_PIPELINE_SYNC
  end
  c.exit_pipeline_mode
  puts "batch: #{told.tally}"
end

Thread.new { sleep 0.5; c.cancel }
puts "cancel: #{state { c.exec("select pg_sleep(60)") }}"
puts "cancel, after: #{c.exec("select 8").getvalue(0, 0)}"
if SESSION
  c.exec("listen #{TABLE}")
  other = PG.connect(host: ENV["PGHOST"])
  other.exec("notify #{TABLE}, 'hello'")
  c.wait_for_notify(20) { |channel, _, payload| puts "listen: #{channel} #{payload}" }
  other.close
end
c.reset
puts "reset of the connection: #{c.exec("select 9").getvalue(0, 0)}"
c.close
gone = PG.connect(host: ENV["PGHOST"])
gone.send_query("select repeat('x', 1000000)")
gone.close
c = PG.connect(host: ENV["PGHOST"])
puts "left: #{c.exec("select 9").getvalue(0, 0)}"
