# ruby-pg: see README.md.
require "pg"

$stdout.sync = true

def check(fine, what)
  raise "wrong: #{what}" unless fine
end

def use(database)
  connection = PG.connect(dbname: database)
  puts "#{database} login"
  connection.transaction do
    connection.exec("create temp table zoo (n int) on commit drop")
    connection.exec_params("insert into zoo values ($1)", [7])
    check connection.exec("select n from zoo").getvalue(0, 0) == "7", "transaction"
  end
  puts "#{database} transaction"
  connection.prepare("zoo", "select $1::int + 1")
  [1, 2].each do |number|
    got = connection.exec_prepared("zoo", [number]).getvalue(0, 0)
    check got == (number + 1).to_s, "prepared"
  end
  puts "#{database} prepared"
  connection.transaction do
    connection.exec("create temp table zoo (n int) on commit drop")
    connection.copy_data("copy zoo from stdin") do
      1000.times { |number| connection.put_copy_data("#{number}\n") }
    end
    total = 0
    connection.copy_data("copy zoo to stdout") do
      while (row = connection.get_copy_data)
        total += row.to_i
      end
    end
    check total == 499500, "copy"
  end
  puts "#{database} copy"
  puts "#{database} sleeping"
  connection.send_query("select pg_sleep(60)")
  $stdin.gets
  connection.cancel
  begin
    connection.get_last_result
    check false, "cancel"
  rescue PG::QueryCanceled
    puts "#{database} cancel"
  end
  check connection.exec("select 8").getvalue(0, 0) == "8", "after"
  connection.close
  puts "#{database} done"
end

ARGV.dup.each { |database| use(database) }
