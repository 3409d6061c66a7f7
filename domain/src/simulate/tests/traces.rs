//! Reading traces.

use crate::simulate::{Scenario, jobs, openb};

#[test]
fn a_trace_of_our_own_is_read_with_its_columns_in_any_order() {
    let text = "class,tenant,milli,duration_secs,arrival_secs,count,priority,memory_bytes,project,model\r\n\
                x,health,500,1.5,0.25,3,-5,80,wards,llama\r\n\
                # a remark\r\n\
                \r\n\
                y,justice,1000,60,7,,,,,\r\n";
    let jobs = jobs::read(text).unwrap();
    let [first, second] = &jobs[..] else { panic!("two lines: {jobs:?}") };
    assert_eq!((first.line, first.arrival_us, first.duration_us), (2, 250_000, 1_500_000));
    assert_eq!((first.count, first.priority, first.request.memory_bytes), (3, -5, 80));
    assert_eq!(first.project.as_ref().map(crate::tenants::Slug::as_str), Some("wards"));
    assert_eq!(first.model.as_deref(), Some("llama"));
    assert_eq!((second.line, second.count, second.priority, second.project.is_none()), (5, 1, 0, true));
}

#[test]
fn a_bad_line_says_line_column_and_what_was_expected() {
    let head = "arrival_secs,tenant,class,milli,duration_secs,priority,count";
    for (line, told) in [
        ("x,a,x,1,1,0,1", "line 2, column arrival_secs: expected seconds"),
        ("-1,a,x,1,1,0,1", "line 2, column arrival_secs"),
        ("0,A b,x,1,1,0,1", "line 2, column tenant: expected a short name"),
        ("0,a,,1,1,0,1", "line 2, column class: expected an accelerator class"),
        ("0,a,x,0,1,0,1", "line 2, column milli: expected thousandths of one device"),
        ("0,a,x,1,0,0,1", "line 2, column duration_secs: expected seconds, more than 0"),
        ("0,a,x,1,1.0000001,0,1", "line 2, column duration_secs"),
        ("0,a,x,1,1,5000,1", "line 2, column priority: expected a number from -1000 to 1000"),
        ("0,a,x,1,1,0,0", "line 2, column count: expected a whole number from 1, found \"0\""),
        ("0,a,x,1,1,0", "line 2: expected 7 fields as in the header, found 6"),
        ("0,a,x,1,1,0,3000000", "line 2: more than 2000000 pieces of work"),
    ] {
        let error = jobs::read(&format!("{head}\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains(told), "{error:?} for {line:?}");
    }
    for (text, told) in [
        ("", "line 1: expected a header"),
        ("arrival_secs,tenant\n", "expected a column class"),
        ("arrival_secs,tenant,class,milli,duration_secs,colour\n", "column \"colour\" is not known"),
        ("arrival_secs,tenant,class,milli,duration_secs,tenant\n", "\"tenant\" is there twice"),
    ] {
        let error = jobs::read(text).unwrap_err().to_string();
        assert!(error.contains(told), "{error:?} for {text:?}");
    }
}

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn-2,8000,1024,2,T4\nn-1,4000,1024,1,V100\n";

#[test]
fn openb_pods_become_work_at_the_times_of_the_trace() {
    let pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,creation_time,deletion_time,scheduled_time\n\
                p-1,1000,10,1,460,,LS,5,100,10\n\
                p-2,2000,20,0,0,,BE,6,,\n\
                p-0,1000,10,2,1000,,LS,7,50,7\n";
    let (nodes, pods) = (openb::nodes(NODES).unwrap(), openb::pods(pods).unwrap());
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n-1", "n-2"]);
    let jobs = openb::jobs(&nodes, &pods, 42);
    let [wide, part, plain] = &jobs[..] else { panic!("three pods") };
    assert_eq!((wide.line, wide.count, wide.request.milli, wide.request.class.as_str()), (4, 2, 1000, "gpu"));
    assert_eq!((part.arrival_us, part.duration_us, part.tenant.as_str()), (5_000_000, 90_000_000, "ls"));
    // Without an end it lasts as long as the trace.
    assert_eq!(
        (plain.request.class.as_str(), plain.request.milli, plain.duration_us),
        ("cpu", 2000, 94_000_000)
    );
    let machines = openb::machines(&nodes, &pods);
    assert_eq!(
        machines[1].devices.iter().map(|d| d.class.as_str()).collect::<Vec<_>>(),
        ["gpu", "gpu", "cpu"]
    );
    let scenario = Scenario::new(&Default::default(), machines, None, &jobs).unwrap();
    assert!(jobs.iter().all(|job| scenario.could_take(&job.request)));
}

#[test]
fn openb_pods_that_name_models_get_one_that_they_accept() {
    let line = |n: usize, spec: &str| format!("p-{n},1,1,1,1000,{spec}\n");
    let mut pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n".to_owned();
    (0..300).for_each(|n| pods += &line(n, ["T4", "", "V100|T4"][n % 3]));
    let (nodes, pods) = (openb::nodes(NODES).unwrap(), openb::pods(&pods).unwrap());
    let jobs = openb::jobs(&nodes, &pods, 1);
    assert_eq!(jobs, openb::jobs(&nodes, &pods, 1));
    assert_ne!(jobs, openb::jobs(&nodes, &pods, 2));
    for (job, pod) in jobs.iter().zip(&pods) {
        let fits =
            pod.models.is_empty() || pod.models.iter().any(|m| m.eq_ignore_ascii_case(&job.request.class));
        assert!(fits, "{job:?} of {pod:?}");
    }
    // Two of three devices are T4.
    let t4 = jobs.iter().zip(&pods).filter(|(job, pod)| pod.models.is_empty() && job.request.class == "t4");
    assert!((50..85).contains(&t4.count()));
    let error =
        openb::pods("name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np,1,1,1,1001,\n").unwrap_err();
    assert!(error.to_string().contains("line 2, column gpu_milli: expected thousandths"), "{error}");
}
